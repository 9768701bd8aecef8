"""The packed family of a ResNet: what comes back of it, what is refused, and `codesign eval`."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from codesign.cli import main
from codesign.dress.masks import Masks
from codesign.dress.packed import load_packed
from codesign.dress.trees import kernel_specs, named_leaves
from codesign.errors import UserError
from codesign.models.formats import ImageSettings
from codesign.models.resnet import ResNet, ResNetConfig
from codesign.models.resnet_family import is_resnet_family, load_resnet_family, pack_resnet

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = ResNetConfig(depth=8, width=2, classes=10, channels=1)
PICTURES = ImageSettings(size=8, mean=(0.3,), std=(0.4,))
NAMES = tuple("abcdefghij")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A network, the levels of two subnets, their own norms, and the folder of the family."""
    rng = np.random.default_rng(0)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: ResNet(CONFIG, rngs=nnx.Rngs(0))))
    values = {n: rng.uniform(0.5, 1.5, x.shape) for n, x in named_leaves(state).items()}
    arrays = [jnp.asarray(x, jnp.float32) for x in values.values()]
    model = nnx.merge(graphdef, jax.tree.unflatten(jax.tree.structure(state), arrays))
    specs = kernel_specs(nnx.state(model, nnx.Param), ("blocks.*",))
    levels = {}
    for name in specs:
        # The first half of every row in subnet 0, the first weight in subnet 1.
        shape = values[name].shape
        row = np.zeros(np.prod(shape[:3]), np.uint8)
        row[: len(row) // 2], row[0] = 1, 2
        levels[name] = np.broadcast_to(row.reshape(*shape[:3], 1), shape)
    own = [
        {
            n: rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
            for n, x in values.items()
            if "norm" in n
        }
        for _ in range(2)
    ]
    folder = tmp_path_factory.mktemp("family")
    packed = pack_resnet(model, PICTURES, NAMES, Masks(levels, {}), specs, (0.5, 0.9), own)
    packed.save(folder / "family.safetensors")
    return model, levels, own, folder


def test_every_subnet_comes_back_with_norms_of_its_own(written):
    model, levels, own, folder = written
    family = load_resnet_family(folder)
    assert (family.config, family.pictures, family.class_names) == (CONFIG, PICTURES, NAMES)
    assert family.sparsities == (0.5, 0.9) and len(family) == 2
    whole = named_leaves(nnx.state(model))
    for k in range(2):
        found = named_leaves(nnx.state(family.at(k)))
        assert found.keys() == whole.keys()
        for name, values in found.items():
            expected = own[k].get(name, whole[name])
            if name in levels:
                expected = np.asarray(expected) * (levels[name] > k)
            np.testing.assert_array_equal(values, expected, err_msg=name)
    with pytest.raises(ValueError, match="no subnet 2"):
        family.at(2)


def test_it_is_told_from_other_files(written, tmp_path):
    folder = written[-1]
    assert is_resnet_family(folder) and is_resnet_family(folder / "family.safetensors")
    dataclasses.replace(load_packed(folder / "family.safetensors"), model="clip").save(
        tmp_path / "family.safetensors"
    )
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing of the kind")
    for path in (tmp_path, tmp_path / "damaged.safetensors", tmp_path / "absent", tmp_path / "x.y"):
        assert not is_resnet_family(path)
    with pytest.raises(UserError, match="of a clip model, not of a resnet"):
        load_resnet_family(tmp_path)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"network": dataclasses.asdict(CONFIG) | {"depth": 14}}, "'blocks.1.conv1.kernel'"),
        ({"network": dataclasses.asdict(CONFIG) | {"width": 4}}, "another network"),
        ({"network": {"depth": 9}}, "does not describe a ResNet"),
        ({"pictures": {}}, "does not describe a ResNet"),
    ],
)
def test_a_description_of_another_network_is_refused(written, tmp_path, about, message):
    packed = load_packed(written[-1] / "family.safetensors")
    path = tmp_path / "odd.safetensors"
    dataclasses.replace(packed, about=packed.about | about).save(path)
    with pytest.raises(UserError, match=message) as caught:
        load_resnet_family(path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_eval_counts_what_a_subnet_gets_right(written, capsys):
    folder = written[-1]
    arguments = ["eval", str(folder), "--data", "digits", "--limit", "50", "--subnet", "1"]
    assert main([*arguments, "--batch-size", "32", "--threads", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    from codesign.train.data import SourceConfig, open_source

    source = open_source(SourceConfig(path="digits", split="test", limit=50))
    images = np.stack([source.image(i) for i in range(50)])[..., None] / np.float32(255)
    logits = nnx.jit(load_resnet_family(folder).at(1))((images - 0.3) / 0.4)
    right = np.mean(np.argmax(logits, axis=1) == source.labels)
    assert result["images"] == 50
    assert result["classification"]["top_1"] == pytest.approx(right)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "choose --subnet, 0 to 1"),
        (["--subnet", "2"], "subnets 0 to 1"),
        (["--subnet", "0", "--image", "9"], "--image is for a CLIP"),
    ],
)
def test_options_that_make_no_sense_are_one_line(written, capsys, options, message):
    assert main(["eval", str(written[-1]), "--data", "digits", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
