"""Parsed JSON as annotated classes: exact, strict, and clear about the place of a fault."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, doc

from codesign.decode import decode
from codesign.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")

Size = Annotated[int, Ge(1), Le(9), doc("a size from 1 to 9")]


@dataclasses.dataclass(frozen=True)
class Tower:
    width: Size
    means: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Config:
    vision: Tower
    text: Tower | None = None
    side: Size | tuple[Size, Size] = 1
    epsilon: Annotated[float, Gt(0)] = 1e-5
    labels: dict[str, int] = dataclasses.field(default_factory=dict)
    more: dict[str, Tower] = dataclasses.field(default_factory=dict)
    size: Size | Tower = 1
    towers: tuple[Tower | None, ...] = ()
    activation: Literal["gelu", "relu"] = "gelu"
    causal: bool = True

    def __post_init__(self) -> None:
        if self.side == (9, 9):
            raise ValueError("sides of 9 are not made")


def test_values_are_what_they_were() -> None:
    floats = [0.1, 1e-308, 5e-324, 1.7976931348623157e308, -0.0, 3]
    found = decode(Config, {"vision": {"width": 3, "means": floats}, "side": [1, 2]}, "x")
    assert found == Config(Tower(3, tuple(floats)), side=(1, 2))
    assert all(isinstance(mean, float) for mean in found.vision.means)


WHOLE = dataclasses.asdict(Config(Tower(1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision": {}}, "x: top.vision.width is missing"),
        ({"vision": None}, "x: top.vision is None, expected an object"),
        ({"vision": {"width": "3"}}, "x: top.vision.width is '3', expected a size from 1 to 9"),
        ({"vision": {"width": 3.0}}, "x: top.vision.width is 3.0, expected a size"),
        ({"vision": {"width": True}}, "x: top.vision.width is True, expected a size"),
        ({"vision": {"width": 10}}, "x: top.vision.width is 10, expected a size"),
        ({"vision": {"width": 10**200}}, "x: top.vision.width is 1000.*000, expected a size"),
        (
            {"vision": {"width": 1, "means": [1, "2"]}},
            r"x: top.vision.means\[1\] is '2', expected a finite number",
        ),
        ({"vision": {"width": 1, "means": 2}}, "x: top.vision.means is 2, expected a list"),
        ({"text": {"width": []}}, r"x: top.text.width is \[\], expected a size"),
        ({"text": "a" * 1000}, r"x: top.text is 'a{20,40}\.\.\.a{20,40}', expected an object"),
        ({"side": [1]}, r"x: top.side is \[1\], expected a size from 1 to 9 or a list of 2"),
        ({"side": {}}, r"x: top.side is {}, expected a size"),
        ({"size": "a"}, "x: top.size is 'a', expected a size from 1 to 9 or an object"),
        ({"size": {"width": 0}}, "x: top.size.width is 0, expected a size"),
        ({"size": {"width": 1, "x": 0}}, "x: unknown key 'top.size.x'"),
        ({"epsilon": 0}, "x: top.epsilon is 0, expected a finite number, above 0"),
        ({"epsilon": 10**400}, "x: top.epsilon is 1000.*000, expected a finite number"),
        ({"activation": "\ud800"}, "x: it holds text with half a surrogate pair"),
        ({"epsilon": "1e-5"}, "x: top.epsilon is '1e-5', expected a finite number"),
        ({"labels": {"a\nb": 1.5}}, r"x: top.labels.'a\\nb' is 1.5, expected a whole number"),
        ({"labels": []}, r"x: top.labels is \[\], expected an object"),
        ({"activation": ["gelu"]}, r"x: top.activation is \['gelu'\], expected 'gelu' or 'relu'"),
        ({"causal": 1}, "x: top.causal is 1, expected true or false"),
        ({"side": [9, 9]}, "x: top: sides of 9 are not made"),
        ({"vison": 1}, "x: unknown key 'top.vison'; did you mean 'vision'"),
        (
            {"more": {"a": WHOLE["vision"], "b": {"width": 1, "x": 1}}},
            "x: unknown key 'top.more.b.x'",
        ),
        ({"more": {"a": {}}}, "x: top.more.a.width is missing"),
        ({"towers": [None, {"width": 0}]}, r"x: top.towers\[1\].width is 0, expected a size"),
        ({"towers": [{"width": 1, "x": 0}]}, r"x: unknown key 'top.towers\[0\].x'"),
        ({"text": {"width": 1}}, "x: top.text.means is missing"),
        ({"towers": [None, {"width": 1}]}, r"x: top.towers\[1\].means is missing"),
        ({"text": {"width": 1, "a\nb": 1}}, r"x: unknown key 'top.text.'a\\nb''; choose from"),
    ],
)
def test_faults(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}") as caught:
        decode(Config, json.loads(json.dumps(WHOLE)) | change, "x", at="top", exact=True)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize("obj", [None, [], "a", 1, True])
def test_the_whole(obj: Any) -> None:
    with pytest.raises(UserError, match=r"^x: it is .*, expected an object"):
        decode(Config, obj, "x")


def test_other_keys_and_defaults() -> None:
    assert decode(Tower, {"width": 1, "height": 2}, "x") == Tower(1)
    with pytest.raises(UserError, match=r"^x: means is missing"):
        decode(Tower, {"width": 1}, "x", exact=True)
    assert decode(Config, json.loads(json.dumps(WHOLE)), "x", exact=True) == Config(Tower(1))
