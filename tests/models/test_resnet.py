"""ResNet: against PyTorch's layers, its products counted in the traced program, its sizes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from codesign.dress.trees import kernel_specs, named_leaves
from codesign.models.resnet import ResNet, ResNetConfig, layer_macs, subnet_macs

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = ResNetConfig(depth=8, width=3, classes=5, channels=2)


def shapes(config):
    return nnx.eval_shape(lambda: ResNet(config, rngs=nnx.Rngs(0)))


def traced_macs(config, image):
    """Products of every convolution and matrix product that the traced network holds."""
    graphdef, state = nnx.split(shapes(config))
    images = jax.ShapeDtypeStruct((1, image, image, config.channels), jnp.float32)
    program = jax.make_jaxpr(lambda s, x: nnx.merge(graphdef, s)(x))(state, images)
    found = []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            out = equation.outvars[0].aval
            if equation.primitive.name in ("conv_general_dilated", "dot_general"):
                kernel = equation.invars[1].aval.shape
                found.append(math.prod(out.shape[:-1]) * math.prod(kernel))
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    walk(inner)

    walk(program.jaxpr)
    return found


@pytest.mark.parametrize(("config", "image"), [(TINY, 9), (ResNetConfig(depth=14, width=4), 32)])
def test_products_of_every_layer_are_those_of_the_traced_network(config, image):
    macs = layer_macs(config, image)
    assert macs.keys() == kernel_specs(nnx.state(shapes(config), nnx.Param)).keys()
    assert sorted(macs.values()) == sorted(traced_macs(config, image))


def test_resnet_20_has_the_published_size():
    config = ResNetConfig(depth=20)
    sizes = {n: x.size for n, x in named_leaves(nnx.state(shapes(config), nnx.Param)).items()}
    # He et al. 2016, table 6: 0.27 M parameters; 40.6 M products, as often counted since.
    assert sum(sizes.values()) == 269_722
    assert sum(layer_macs(config, 32).values()) == pytest.approx(40.6e6, rel=2e-3)


def test_a_subnet_does_the_products_of_its_weights_alone():
    macs = layer_macs(TINY, 8)
    whole, name = sum(macs.values()), "blocks.1.conv1.kernel"
    assert subnet_macs(TINY, 8, {}) == whole
    size = 3 * 3 * 3 * 6
    assert subnet_macs(TINY, 8, {name: size - 10}) == whole - 10 * 4 * 4
    assert subnet_macs(TINY, 8, {"stem.kernel": 0}) == whole - macs["stem.kernel"]
    for kept in ({name: size + 1}, {"blocks.9.conv1.kernel": 1}):
        with pytest.raises(ValueError, match="cannot keep"):
            subnet_macs(TINY, 8, kept)


@pytest.mark.slow
@pytest.mark.parametrize("trains", [True, False])
def test_the_network_is_that_of_pytorch(trains):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    rng = np.random.default_rng(0)
    graphdef, state = nnx.split(shapes(TINY))
    leaves = named_leaves(state)
    values = {
        n: rng.uniform(0.5, 1.5, x.shape) if n.endswith("var") else rng.normal(0, 0.5, x.shape)
        for n, x in leaves.items()
    }
    structure = jax.tree.structure(state)
    state = jax.tree.unflatten(structure, [jnp.asarray(values[n], jnp.float32) for n in leaves])
    model = nnx.merge(graphdef, state)
    model.train() if trains else model.eval()
    tensor = {n: torch.from_numpy(x.astype(np.float32)) for n, x in values.items()}

    def conv(x, name, stride=1):
        kernel = tensor[f"{name}.kernel"].permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, stride=stride, padding=1)

    def norm(x, name):
        own = [tensor[f"{name}.{kind}"] for kind in ("mean", "var", "scale", "bias")]
        return functional.batch_norm(x, *(t.clone() for t in own), training=trains, eps=1e-5)

    images = rng.normal(size=(4, 8, 8, TINY.channels)).astype(np.float32)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    x = torch.relu(norm(conv(x, "stem"), "norm"))
    for number, (before, after, stride) in enumerate(TINY.blocks):
        at = f"blocks.{number}"
        y = torch.relu(norm(conv(x, f"{at}.conv1", stride), f"{at}.norm1"))
        y = norm(conv(y, f"{at}.conv2"), f"{at}.norm2")
        shortcut = functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, after - before))
        x = torch.relu(shortcut + y)
    expected = x.mean(dim=(2, 3)) @ tensor["head.kernel"] + tensor["head.bias"]
    np.testing.assert_allclose(model(jnp.asarray(images)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 10}, "6n"),
        ({"depth": 2}, "6n"),
        ({"width": 0}, "width is 0"),
        ({"classes": 1}, "classes is 1"),
    ],
)
def test_bad_dimensions_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        ResNetConfig(**fields)
