import pytest
import torch
from torch import nn

from autoprune.deployed import ActivationQuantizer, CodebookLayer, QuantizedLayer
from autoprune.deployed.kinds import TransposedLinear
from autoprune.errors import ArtifactError
from autoprune.stored import modules

LAYERS = [
    nn.AdaptiveAvgPool2d((1, None)),
    nn.BatchNorm1d(3, affine=False),
    nn.Conv2d(3, 4, 3, padding="same", bias=False),
    nn.ConvTranspose2d(2, 4, 3, stride=2, output_padding=1),
    nn.Embedding(4, 5, padding_idx=1),
    nn.GELU(approximate="tanh"),
    nn.GroupNorm(2, 4),
    nn.LSTM(3, 4, 2, batch_first=True, proj_size=2),
    nn.LayerNorm(4, bias=False),
    nn.MultiheadAttention(8, 2, add_bias_kv=True),
    nn.PReLU(3),
    nn.RNN(2, 3, nonlinearity="relu"),
    nn.Upsample(scale_factor=2),
    nn.Bilinear(2, 3, 4),
    nn.CircularPad2d(1),
    nn.ConvTranspose1d(2, 4, 3, groups=2, bias=False),
    nn.EmbeddingBag(4, 5, mode="sum"),
    nn.GRU(3, 4, bidirectional=True),
    nn.GRUCell(3, 4),
    nn.Hardtanh(-2.0, 3.0),
    nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    nn.LSTMCell(3, 4, bias=False),
    nn.LocalResponseNorm(2),
    nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
    nn.PixelShuffle(2),
    nn.RMSNorm(4, eps=1e-6),
    nn.SiLU(inplace=True),
    nn.Softmax(dim=-1),
    nn.Unfold(2, stride=2),
    nn.UpsamplingBilinear2d(scale_factor=2),
    TransposedLinear(3, 4),
    ActivationQuantizer(4),
    QuantizedLayer.of(nn.Conv2d(4, 8, 3, groups=2), 3, 8),
    QuantizedLayer.of(nn.Conv2d(4, 8, 3), 3, 8, form="per_tensor"),
    CodebookLayer.sharing(nn.Conv2d(4, 8, 3), (3, 8), unfolded=(torch.zeros(8, 4, 3, 3), torch.ones(8))),
    QuantizedLayer.of(nn.Linear(4, 8, bias=False), 16, 8, rounds_input=True),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_layer_is_made_again_with_the_same_settings(layer):
    again = modules.build(modules.describe(layer.eval()))
    assert repr(again) == repr(layer)
    assert {n: t.shape for n, t in again.state_dict().items()} == {
        n: t.shape for n, t in layer.state_dict().items()
    }


class Own(nn.Linear):
    """A user's layer: what it does is in its code."""


@pytest.mark.parametrize(
    "layer", [Own(2, 2), nn.TransformerEncoderLayer(4, 2)], ids=["own", "with functions"]
)
def test_a_layer_that_needs_code_is_refused(layer):
    with pytest.raises(ArtifactError):
        modules.describe(layer.eval())


def test_a_layer_whose_parameters_were_tampered_with_is_refused():
    layer = nn.Linear(4, 4).eval()
    layer.weight = nn.Parameter(layer.weight[:2])
    with pytest.raises(ArtifactError, match="cannot be made again"):
        modules.describe(layer)
