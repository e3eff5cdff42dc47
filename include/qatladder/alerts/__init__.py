"""Who is told about a run, what, and when: one message per cause, delivered for certain.

    findings.py      a report as findings, and findings as clusters of one cause
    acknowledged.py  regressions somebody answers for, until a date: include/zoo/acknowledged.yaml
    routing.py       addresses, owners, quiet hours: include/zoo/alerts.yaml
    memory.py        what was told before, so that an unchanged finding is not told again every night
    messages.py      a cluster as a text that fits a chat
    outbox.py        messages on their way: held, tried again, delivered, lost
    send.py          one message to one address, through apprise
    plugins.py       what apprise lacks: files, and chats whose "200 OK" is a refusal
    tell.py          all of it for one run

State is in the object store under `alerts/`; no address and no secret is.
"""
