"""What the guides show of a zoo entry and of zoo.yaml is what the schema takes."""

from __future__ import annotations

import re

import pytest
import yaml

from qatladder.settings import PROJECT
from qatladder.zoo.schema import Artifacts, Entry, Expectation, Target, ZooFile

BLOCKS = [
    (path.name, text)
    for path in sorted((PROJECT / "docs").glob("*.md"))
    for text in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize(("page", "text"), BLOCKS, ids=[f"{page}-{index}" for index, (page, _) in enumerate(BLOCKS)])
def test_a_block_is_read(page: str, text: str) -> None:
    data = yaml.safe_load(text)
    if not isinstance(data, dict):
        return
    if "model" in data and "targets" in data:
        Entry.model_validate(data)
    elif "environments" in data:
        ZooFile.model_validate(data)
    elif "expectations" in data:
        for expectation in data["expectations"]:
            Expectation.model_validate(expectation)
    elif "artifacts" in data:
        Artifacts.model_validate(data["artifacts"])
        for target in data["targets"]:
            Target.model_validate(target)
