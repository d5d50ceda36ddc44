"""The ATen operations that a stored graph may call: functions of tensors without side effects or randomness.

`deployed.lift` writes graphs of these. Each name stands for the overloads that change nothing in place; dropout and
attention are here for evaluation, in which they draw no random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

PREFIX = "aten."

_POINTWISE = """
abs acos acosh add addcdiv addcmul asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not
bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp clamp_max clamp_min clip copysign cos cosh div
elu eq erf erfc erfinv exp exp2 expm1 fill floor floor_divide fmax fmin fmod frac gelu glu ge greater
greater_equal gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot isfinite isinf isnan le
leaky_relu lerp less less_equal lgamma log log10 log1p log2 log_sigmoid logaddexp logical_and logical_not
logical_or logical_xor logit lt masked_fill maximum minimum mish mul multiply nan_to_num ne neg not_equal
pow prelu reciprocal relu relu6 remainder round rsqrt rsub selu sgn sigmoid sign silu sin sinc sinh softplus
softshrink sqrt square sub subtract tan tanh threshold true_divide trunc where xlogy zero __and__ __or__
__xor__ __lshift__ __rshift__ conj_physical deg2rad digamma float_power gcd i0 isclose isin lcm ldexp mvlgamma
nextafter polygamma rad2deg special_entr special_erf special_erfcx special_expit special_i0 special_i1
special_log_ndtr special_ndtr special_xlog1py _prelu_kernel
"""
_REDUCTIONS = """
all amax amin aminmax any argmax argmin argsort bincount count_nonzero cummax cummin cumprod cumsum diff
linalg_vector_norm log_softmax logcumsumexp logsumexp max mean median min mode norm prod softmax sort std
std_mean sum topk trapezoid var var_mean _log_softmax _softmax _safe_softmax linalg_norm kthvalue nansum
nanmean cov dist histc nanmedian quantile trace
"""
_SHAPES = """
adjoint alias as_strided atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to cat
channel_shuffle chunk clone concat concatenate constant_pad_nd contiguous detach diag diag_embed diagonal
dropout dstack expand expand_as feature_dropout alpha_dropout flatten flip fliplr flipud gather hstack
im2col col2im index index_add index_copy index_fill index_put index_select lift_fresh_copy masked_scatter
matrix_H mH mT meshgrid moveaxis movedim narrow native_channel_shuffle one_hot pad permute pixel_shuffle
pixel_unshuffle positive ravel reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
replication_pad1d replication_pad2d replication_pad3d reshape reshape_as roll rot90 scatter scatter_add
scatter_reduce select select_scatter slice slice_scatter split split_with_sizes squeeze stack swapaxes
swapdims t take take_along_dim tensor_split tile to transpose tril triu unbind unflatten unfold unsafe_chunk
unsafe_split unsafe_split_with_sizes unsqueeze view view_as vstack _reshape_alias _to_copy _unsafe_index
_unsafe_view copy numpy_T type_as _pad_circular _shape_as_tensor hsplit vsplit argwhere cartesian_prod
column_stack dsplit index_reduce masked_select nonzero nonzero_numpy put squeeze_copy view_copy expand_copy permute_copy
"""
_MADE = """
arange eye full full_like linspace logspace new_full new_ones new_zeros ones ones_like scalar_tensor
tril_indices triu_indices zeros zeros_like bucketize searchsorted hann_window hamming_window blackman_window
empty empty_like empty_strided new_empty new_empty_strided
"""
_PRODUCTS = """
_convolution _trilinear _weight_norm _weight_norm_interface addbmm addmm addmv baddbmm bilinear bmm cdist
chain_matmul conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
cosine_similarity cross dot einsum embedding embedding_bag inner kron linalg_cross linalg_inv linalg_matmul
linalg_matrix_norm linalg_multi_dot linalg_solve linear matmul mm mv outer pairwise_distance
scaled_dot_product_attention tensordot vdot vecdot _scaled_dot_product_flash_attention_for_cpu fft_fft
fft_fft2 fft_ifft fft_ifft2 fft_irfft fft_irfft2 fft_rfft fft_rfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn
real imag view_as_real view_as_complex complex polar conj resolve_conj angle stft istft _conj _neg_view resolve_neg
_fft_c2c _fft_c2r _fft_r2c _cdist_forward _euclidean_dist _embedding_bag _embedding_bag_forward_only
_grouped_mm addr linalg_cholesky linalg_det linalg_eigh linalg_eigvalsh linalg_householder_product
linalg_matrix_exp linalg_matrix_power linalg_pinv linalg_qr linalg_slogdet linalg_solve_triangular
linalg_svd linalg_svdvals linalg_vander logdet matrix_exp matrix_power pdist slogdet _linalg_det
_linalg_eigh _linalg_slogdet _linalg_solve_ex linalg_cholesky_ex linalg_inv_ex
"""
_LAYERS = """
_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d affine_grid_generator avg_pool1d avg_pool2d
avg_pool3d batch_norm fractional_max_pool2d grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru
gru_cell instance_norm layer_norm lstm lstm_cell max_pool1d max_pool1d_with_indices max_pool2d
max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d max_unpool3d native_batch_norm
_native_batch_norm_legit_no_training native_group_norm native_layer_norm rms_norm _fused_rms_norm rnn_relu
rnn_tanh upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
upsample_nearest3d upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_bilinear2d_aa _upsample_bicubic2d_aa local_response_norm
"""
_SIZES = "sym_size sym_numel sym_stride sym_storage_offset"

NAMES = frozenset(" ".join((_POINTWISE, _REDUCTIONS, _SHAPES, _MADE, _PRODUCTS, _LAYERS, _SIZES)).split())


@cache
def operations() -> dict[str, Callable[..., Any]]:
    """`aten.add.Tensor`, ... -> the operation: all overloads of the names above that change nothing in place."""
    found: dict[str, Callable[..., Any]] = {}
    for name in sorted(NAMES):
        packet = getattr(torch.ops.aten, name, None)
        for overload in packet.overloads() if packet is not None else ():
            operation = getattr(packet, overload)
            if not operation._schema.is_mutable and "generator" not in str(operation._schema):
                found[f"{PREFIX}{name}.{overload}"] = operation
    return found
