"""Which canonical kind each ATen operator has, and which of its arguments are operands, in canonical order."""

from __future__ import annotations

from collections.abc import Mapping

from .kinds import other

_TABLE = """
mm                     matmul            self mat2
bmm                    matmul            self mat2
matmul                 matmul            self other
addmm                  matmul            mat1 mat2 self
baddbmm                matmul            batch1 batch2 self
linear                 matmul            input weight bias
einsum                 einsum            tensors
convolution            conv              input weight bias
conv1d                 conv              input weight bias
conv2d                 conv              input weight bias
conv3d                 conv              input weight bias
scaled_dot_product_attention attention   query key value attn_mask
_softmax               softmax           self
softmax                softmax           self
_safe_softmax          softmax           self
_log_softmax           log_softmax       self
log_softmax            log_softmax       self
native_layer_norm      layer_norm        input weight bias
layer_norm             layer_norm        input weight bias
rms_norm               rms_norm          input weight
_fused_rms_norm        rms_norm          input weight
native_batch_norm      batch_norm        input weight bias running_mean running_var
batch_norm             batch_norm        input weight bias running_mean running_var
_native_batch_norm_legit_no_training batch_norm input weight bias running_mean running_var
native_group_norm      group_norm        input weight bias
group_norm             group_norm        input weight bias
instance_norm          instance_norm     input weight bias
add                    add               self other
sub                    sub               self other
rsub                   sub               other self
mul                    mul               self other
div                    div               self other
pow                    pow               self exponent
minimum                min               self other
maximum                max               self other
remainder              mod               self other
fmod                   mod               self other
logical_and            and               self other
logical_or             or                self other
logical_xor            xor               self other
bitwise_and            and               self other
bitwise_or             or                self other
bitwise_xor            xor               self other
logical_not            not               self
bitwise_not            not               self
eq                     eq                self other
ne                     ne                self other
lt                     lt                self other
le                     le                self other
gt                     gt                self other
ge                     ge                self other
where                  where             condition self other
masked_fill            where             mask value self
_prelu_kernel          prelu             self weight
prelu                  prelu             self weight
clamp                  clip              self
clamp_min              clip              self
clamp_max              clip              self
hardtanh               clip              self
relu6                  clip              self
trunc                  round             self
round                  round             self
hardsigmoid            hard_sigmoid      self
hardswish              hard_swish        self
_to_copy               cast              self
to                     cast              self
type_as                cast              self
dropout                dropout           input
native_dropout         dropout           input
clone                  identity          self
contiguous             identity          self
alias                  identity          self
detach                 identity          self
lift_fresh_copy        identity          self
copy                   identity          src
sum                    reduce_sum        self
mean                   reduce_mean       self
amax                   reduce_max        self
amin                   reduce_min        self
prod                   reduce_prod       self
any                    reduce_any        self
all                    reduce_all        self
argmax                 argmax            self
argmin                 argmin            self
cumsum                 cumsum            self
topk                   topk              self
sort                   sort              self
view                   reshape           self
_unsafe_view           reshape           self
reshape                reshape           self
flatten                reshape           self
unflatten              reshape           self
permute                transpose         self
transpose              transpose         self
t                      transpose         self
expand                 expand            self
expand_as              expand            self
broadcast_to           expand            self
squeeze                squeeze           self
unsqueeze              unsqueeze         self
slice                  slice             self
select                 gather            self index
cat                    concat            tensors
stack                  stack             tensors
split                  split             self
split_with_sizes       split             self
chunk                  split             self
unbind                 split             self
constant_pad_nd        pad               self
pad                    pad               self
reflection_pad1d       pad               self
reflection_pad2d       pad               self
replication_pad1d      pad               self
replication_pad2d      pad               self
gather                 gather_elements   self index
index_select           gather            self index
embedding              embedding         weight indices
index                  index             self indices
_unsafe_index          index             self indices
index_put              index_put         self indices values
_unsafe_index_put      index_put         self indices values
scatter                scatter_nd        self index src
scatter_add            scatter_nd        self index src
slice_scatter          scatter_nd        self src
select_scatter         scatter_nd        self src
repeat                 tile              self
roll                   roll              self
flip                   flip              self
triu                   triu              self
tril                   tril              self
upsample_nearest1d     resize            input self
upsample_nearest2d     resize            input self
upsample_bilinear2d    resize            input self
upsample_bicubic2d     resize            input self
max_pool1d             pool_max          self
max_pool2d             pool_max          self
max_pool2d_with_indices pool_max         self
max_pool3d_with_indices pool_max         self
avg_pool1d             pool_avg          self
avg_pool2d             pool_avg          self
avg_pool3d             pool_avg          self
_adaptive_avg_pool2d   pool_adaptive_avg self
_adaptive_avg_pool3d   pool_adaptive_avg self
adaptive_avg_pool1d    pool_adaptive_avg self
adaptive_avg_pool2d    pool_adaptive_avg self
lstm                   lstm              input params hx
gru                    gru               input params hx
rnn_tanh               rnn               input params hx
rnn_relu               rnn               input params hx
full                   full
full_like              full
zeros                  full
zeros_like             full
ones                   full
ones_like              full
new_zeros              full
new_ones               full
new_full               full
empty                  full
empty_like             full
scalar_tensor          full
arange                 arange
sym_size               sym               self
sym_numel              sym               self
sym_storage_offset     sym               self
_local_scalar_dense    sym               self
cond                   if
"""

_UNARY = (
    "neg abs exp log log1p sqrt rsqrt reciprocal tanh sigmoid erf relu "
    "gelu silu leaky_relu elu softplus sin cos floor ceil sign isnan isinf"
)

KINDS_ATEN: Mapping[str, tuple[str, tuple[str, ...]]] = {
    **{name: (kind, tuple(operands)) for name, kind, *operands in (line.split() for line in _TABLE.strip().splitlines())},
    **{name: (name, ("self",)) for name in _UNARY.split()},
}
"""Operator name without namespace and overload -> (kind, arguments that are operands)."""


_COLLECTIVES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "all_reduce": ("all_reduce", ("input", "inputs")),
    "all_gather_into_tensor": ("all_gather", ("input", "inputs")),
    "reduce_scatter_tensor": ("reduce_scatter", ("input", "inputs")),
    "all_to_all_single": ("all_to_all", ("input",)),
    "broadcast": ("broadcast", ("input",)),
    "wait_tensor": ("identity", ("tensor",)),
}
"""torch's functional collectives, _c10d_functional; "_coalesced" ones take a list."""


def kind_of_aten(name: str) -> tuple[str, tuple[str, ...] | None]:
    """(kind, operand argument names) of "aten.add.Tensor"; the names are None where every tensor argument is an operand.

    max and min reduce or compare two tensors, and are told apart by their overload.
    """
    namespace, _, rest = name.partition(".")
    base, _, overload = rest.partition(".")
    if namespace == "higher_order" and base == "cond":
        return "if", ()
    if namespace == "_c10d_functional":
        return _COLLECTIVES.get(base.removesuffix("_").removesuffix("_coalesced"), (other(name), None))
    if namespace != "aten":
        return other(name), None
    if base.startswith(("_assert", "sym_constrain", "_async_assert")):
        return "assert", None
    if base in ("max", "min"):
        return (base, ("self", "other")) if overload == "other" else (f"reduce_{base}", ("self",))
    found = KINDS_ATEN.get(base)
    return found if found else (other(name), None)
