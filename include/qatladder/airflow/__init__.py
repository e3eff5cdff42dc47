"""The only Airflow-aware part of QATLadder: DAG building blocks, board connections, notifications, and the services.

    names.py        what a DAG file may know while it is parsed: names, read from YAML
    flow.py         the graph: plan -> one mapped ladder group per board -> summary -> alert
    tasks.py        what each task does
    states.py       a rung's answer as an Airflow task state
    fleet.py        pools and connections follow the fleet; what a health task does
    s3.py           the object store's credentials from an Airflow connection
    ssh.py          boards through Airflow's SSH connections, host keys always checked
    apprise.py      addresses of alerts from an Airflow connection
    announced.py    trained models that announce themselves
    notifier.py     who is told, and when
    environment.py  Airflow's settings and the command of every service, natively and in containers
    prepare.py      the database, the boards' pools, the bucket
    processes.py    every process we start, found and stopped again
    client.py       Airflow's REST API, as little as a sweep needs
    services.py     starts, watches and stops it all: `python -m qatladder.airflow.services sweep|ui|run`

Importing any of the modules a DAG file needs costs milliseconds beyond `airflow.sdk`: everything heavy is imported
inside the tasks.
"""

from qatladder import settings
from qatladder.airflow.apprise import alert_connection
from qatladder.airflow.s3 import s3_connection

settings.s3_connections = s3_connection
settings.alert_connections = alert_connection
