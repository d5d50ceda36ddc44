"""The deployed form of a network: BatchNorm folded, quantizers in place, weights as integer codes.

One package below everything that has to agree on it: `compress` makes it, `cost` counts it before any
training, `targets` carry it to a runtime, `export` stores it.
"""

from autoprune.deployed.codebook import CodebookLayer
from autoprune.deployed.deploy import deploy, input_quantizers, quantized_sums, trace
from autoprune.deployed.kinds import layer_kind
from autoprune.deployed.lift import lift
from autoprune.deployed.packing import pack_state, stored_bytes, unpack_state
from autoprune.deployed.quantizers import ActivationQuantizer, Codes, QuantizedLayer, Widths, weight_codes

__all__ = [
    "ActivationQuantizer",
    "CodebookLayer",
    "Codes",
    "QuantizedLayer",
    "Widths",
    "deploy",
    "input_quantizers",
    "layer_kind",
    "lift",
    "pack_state",
    "quantized_sums",
    "stored_bytes",
    "trace",
    "unpack_state",
    "weight_codes",
]
