"""The rules in plain ATen: the CPU kernel, the kernel of every backend without its own, and the twin of every Triton kernel.

The functions up to `scale_blocks` are the rules themselves, in the order in which a value meets them; `kernels/numerics.py` has the
same functions under the same names, but for those that are for Inductor's C++. Bits are handled as int32, and all arithmetic is float32
or int32 and exact but for the one rounding that each rule is about. The last functions are the ops: they fill the outputs that they are
given. Traced, for a compiler, they are what Inductor fuses with an op's neighbours: they then work on whole tensors, whose sizes may be
symbols.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from .formats import Format
from .symbols import first, groups, has_unbacked, known, memory_order
from .threads import share_out

Outputs = TypeVar("Outputs", Tensor, tuple[Tensor, Tensor])

BITS = {2: torch.int16, 4: torch.int32}  # what holds the bits of a dtype of this size

EXPONENT = 0x7F800000  # the exponent bits of a float32; as a magnitude, infinity
TWO_TO_23 = 0x4B000000  # the bits of 2^23, whose last mantissa bit is worth 1

# On CPU the ops work through a large tensor in pieces of this many elements, so that every intermediate stays in cache, and each piece in
# one thread: threads that share the work of every operation meet after it, and where another process has one of the cores, all wait for
# that. Measured on two cores (AMD EPYC, torch 2.13, bf16 2048x4096 along the last dim), turn by turn, in ms: with other work on both,
# fake_quant to MXFP4 took 748 to 872 with all threads on each piece of 2^17 elements, and 78 to 94 with a thread a piece. Without other
# work quantize to MXFP8 took 57, 36, 30 and 30 in pieces of 2^16 to 2^19, and in one thread 49, 40, 36 and 45; and along dim 0, where
# pieces are half of this, 51 in pieces of 2^17 and 63 in pieces of 2^18, in one thread 62 and 106.
PIECE = 1 << 18
IN_FLIGHT = 1 << 20  # and all threads together on so many: an element's intermediates take some 30 bytes, and a call may take 64 MB


def in_vectors(x: Tensor, traced: bool) -> bool:
    """Whether Inductor's C++ is to compute what becomes of x, or x itself, in vectors; then the formulas take other steps to the same bits.

    - It has no vectors of int16, and a loop that holds one has no vectors at all: so the bits of bfloat16s are those of float32s, and what
      has to be rounded is rounded by `round_to_bfloat16`. (Float16s are rounded less simply; they go without vectors.)
    - It folds vectors of int32s through memory, and those of float32s in registers: so a block's largest magnitude is found among these.
    - A block's scale it computes anew for each vector, bits it reinterprets through memory, which is slow in the longer vectors of a loop
      that computes from bfloat16s alone, and codes that share a byte it packs without vectors: so scales, quotients and codes are `stored`.
      What a loop stores and reads itself, it keeps in registers in the end.

    Measured on one core (AMD EPYC with AVX-512, torch 2.13, bf16 2048x4096 along the last dim): what Inductor writes takes without these
    steps and with them, in ms, for quantize to MXFP8 E4M3 29.7 and 6.7 (torchao's 7.7), to MXFP4 46.2 and 8.5, for fake_quant to E4M3
    27.9 and 9.2, for dequantize 25.6 and 5.2. Where a graph is traced decides its steps and not its bits: it may be run elsewhere.
    """
    return traced and x.device.type == "cpu" and x.dtype != torch.float16


def round_to_bfloat16(x: Tensor) -> Tensor:
    """The bfloat16s nearest to float32s, ties to even, as float32s."""
    bits = x.view(torch.int32)
    nearest = ((bits + (0x7FFF + ((bits >> 16) & 1))) & -0x10000).view(torch.float32)
    return torch.where(x != x, x, nearest)  # Inductor's C++ has no vectors for isnan


def stored(x: Tensor) -> Tensor:
    """The same, as a value that Inductor stores, for it stores what as_strided views.

    It is x itself where a stride holds an unbacked symbol: Inductor does not keep to such strides (see `_write`).
    """
    return x if has_unbacked(x.stride()) else x.as_strided(x.shape, x.stride())


def magnitude_and_sign(x: Tensor, traced: bool) -> tuple[Tensor, Tensor]:
    """|x| as float32, and x's sign as the top bit of an integer: of x's size, or in vectors of 32 bits.

    Both come from x's bits, and those are rounded to x's dtype. Inductor hands on what it fuses as float32 otherwise: 0.5% of the values
    of silu(a) * b -> fake_quant then differed in bfloat16 (H100, torch 2.11).
    """
    if x.dtype == torch.bfloat16 and in_vectors(x, traced):
        x = round_to_bfloat16(x.to(torch.float32))
    bits = x.view(BITS[x.dtype.itemsize])
    sign_bit = torch.iinfo(bits.dtype).min
    return (bits & ~sign_bit).view(x.dtype).to(torch.float32), bits & sign_bit


def with_sign(value: Tensor, sign: Tensor, dtype: torch.dtype) -> Tensor:
    """A magnitude, rounded to dtype, with a sign bit: by its bits, for the same reason."""
    if sign.dtype.itemsize > dtype.itemsize:
        return round_to_bfloat16(with_sign(value, sign, torch.float32)).to(dtype)
    return (value.to(dtype).view(sign.dtype) | sign).view(dtype)


def scale_byte(amax_bits: Tensor, fmt: Format, threshold: int) -> Tensor:
    """The E8M0 byte of each block, from the bits of its largest magnitude; 255 if that is Inf or NaN."""
    # The sum carries into the exponent just when the mantissa exceeds the threshold.
    exponent = (amax_bits + (0x7FFFFF - threshold)) >> 23
    if fmt.emax == 0:
        # Scale 2^-127 then is for a subnormal amax, whose leading one stands in the mantissa: the threshold is half of 2^23 + threshold.
        # (Where emax is more, the exponent less emax is below 0 for a subnormal amax, whatever the threshold.)
        exponent = torch.where(amax_bits < 1 << 23, (amax_bits + (0x7FFFFF - ((threshold + (1 << 23)) >> 1))) >> 23, exponent)
    return torch.where(amax_bits >= EXPONENT, 255, (exponent - fmt.emax).clamp(0, 254))


def scale_value(byte: Tensor) -> Tensor:
    """2^(byte - 127), or NaN for byte 255. 2^-127 is the subnormal 0x400000."""
    return torch.where(byte == 255, 0x7FC00000, (byte << 23).clamp_min(0x400000)).view(torch.float32)


def inverse_scale(byte: Tensor) -> Tensor:
    """2^(127 - byte); some finite number for byte 255."""
    return ((254 - byte) << 23).clamp_min(0x400000).view(torch.float32)


def largest_quotient(byte: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest magnitude whose product with the scale is finite in ``dtype`` (or more than any element, if that is smaller)."""
    return inverse_scale(byte.clamp_min(127)) * torch.finfo(dtype).max


def divide(a: Tensor, b: Tensor | float) -> Tensor:
    """The quotient of float32s, correctly rounded in eager and in compiled code.

    On GPUs Inductor's float32 division is approximate, and that by what it knows to be constant is a product with the reciprocal, of
    which eager code makes one too. Float64 division is exact there, by what is no constant as far as they know. And rounded to float64
    first, a quotient of float32s is rounded to the same float32: it comes so near a tie of float32s only where it is one.
    """
    if a.device.type in ("cpu", "mps"):  # the second has no float64
        return a / b
    wide = a.to(torch.float64)
    return (wide / (b.to(torch.float64) if isinstance(b, Tensor) else torch.where(wide.isnan(), wide, b))).to(torch.float32)


def usable(tensor_scale: Tensor) -> Tensor:
    """A tensor's scale as a number that can be divided by: at least 2^-149; NaN if it is negative, infinite or NaN."""
    tensor_scale = tensor_scale.reshape(())
    return torch.where((tensor_scale >= 0) & (tensor_scale < math.inf), tensor_scale.clamp_min(2.0**-149), math.nan)


def scale_code(amax_bits: Tensor, tensor_scale: Tensor, fmt: Format) -> Tensor:
    """The code of each block's scale under a tensor's: amax / largest / tensor_scale, each quotient rounded, then the nearest code.

    It saturates, and is 0 only for a block of zeros. It is NaN if the block holds an Inf or a NaN, or if the tensor's scale is NaN.
    """
    assert fmt.scale is not None
    quotient = divide(divide(amax_bits.view(torch.float32), fmt.largest), tensor_scale)
    code = round_to_code(quotient, grid_exponent(quotient.view(torch.int32), fmt.scale), None, fmt.scale)
    code = torch.where(quotient < math.inf, code.clamp_min(1), fmt.scale.largest_code)
    code = torch.where(amax_bits == 0, 0, code)
    code = torch.where(amax_bits >= EXPONENT, fmt.scale.nan_code, code)
    return torch.where(tensor_scale.isnan(), fmt.scale.nan_code, code)


def block_scale(code: Tensor, tensor_scale: Tensor, fmt: Format) -> Tensor:
    """What the elements of each block are worth: its own scale times the tensor's, rounded to float32 and saturated.

    The scale's top bit says nothing, as in the unsigned UE4M3 of NVIDIA's hardware.
    """
    assert fmt.scale is not None
    product = decode(code & ((1 << (fmt.scale.bits - 1)) - 1), None, fmt.scale) * tensor_scale
    return product.clamp_max(torch.finfo(torch.float32).max)


def quotients(magnitude: Tensor, scale: Tensor, fmt: Format) -> Tensor:
    """Magnitudes divided by their block's scale, saturated; 0 if that scale is 0."""
    return divide(magnitude, torch.where(scale == 0, math.inf, scale)).clamp_max(fmt.largest)


def scaled(value: Tensor, byte: Tensor, tensor_scale: Tensor | None, fmt: Format, dtype: torch.dtype) -> Tensor:
    """Elements' magnitudes times the scales of their blocks, at most the largest value of ``dtype``."""
    if tensor_scale is None:
        return value * scale_value(byte)  # is no more, by `largest_quotient`
    return (value * block_scale(byte, tensor_scale, fmt)).clamp_max(torch.finfo(dtype).max)


def grid_exponent(y_bits: Tensor, fmt: Format) -> Tensor:
    """The exponent bits of each magnitude's binade on the element grid: subnormal elements share the binade of emin."""
    return (y_bits & EXPONENT).clamp_min((fmt.emin + 127) << 23)


def whole_steps(y: Tensor, exponent: Tensor, random: Tensor, fmt: Format) -> Tensor:
    """floor(y / step + (random + 0.5) / 65536), counted in units of 2^-17 steps and so without a rounding.

    ``random + 0.5`` is an odd number of these units, so what y has below one unit can never decide.
    """
    units_a_one = (((127 + 17 + fmt.mantissa_bits) << 23) - (exponent - (127 << 23))).view(torch.float32)
    return ((y * units_a_one).to(torch.int32) + (2 * random + 1)) >> 17


def round_to_value(y: Tensor, exponent: Tensor, random: Tensor | None, fmt: Format) -> Tensor:
    """The multiple of the grid's step that a magnitude rounds to; to nearest, ties to even, without random bits.

    The anchor is the power of two whose last mantissa bit is worth one step. So adding it rounds y to nearest even, as float32 addition
    does; and anchor + n steps has the bits of the anchor plus n.
    """
    anchor = exponent + ((23 - fmt.mantissa_bits) << 23)
    if random is None:
        rounded = y + anchor.view(torch.float32)
    else:
        rounded = (anchor + whole_steps(y, exponent, random, fmt)).view(torch.float32)
    return rounded - anchor.view(torch.float32)


def round_to_code(y: Tensor, exponent: Tensor, random: Tensor | None, fmt: Format) -> Tensor:
    """The magnitude code of what `round_to_value` gives, saturated.

    It is the binade's code, which is even, plus the whole steps, whether or not they carry into the next binade. Added to 2^23 as a float32
    they round to nearest even and stand in the sum's low bits.
    """
    binade = (exponent >> (23 - fmt.mantissa_bits)) - ((fmt.emin + 127) << fmt.mantissa_bits)
    if random is None:
        steps_a_one = (((127 + fmt.mantissa_bits) << 23) - (exponent - (127 << 23))).view(torch.float32)
        code = (y * steps_a_one + (binade + TWO_TO_23).view(torch.float32)).view(torch.int32) - TWO_TO_23
    else:
        code = binade + whole_steps(y, exponent, random, fmt)
    return code.clamp_max(fmt.largest_code)


def signed_code(magnitude: Tensor, negative: Tensor, fmt: Format) -> Tensor:
    """Codes, from their magnitude and -1 where the value is negative, 0 elsewhere."""
    if fmt.twos_complement:
        return ((magnitude ^ negative) - negative) & ((1 << fmt.bits) - 1)
    return magnitude | (negative & (1 << (fmt.bits - 1)))


def magnitude_code(code: Tensor, fmt: Format) -> Tensor:
    """The magnitude of codes, which have no bits but their own."""
    if fmt.twos_complement:
        return torch.where(code >> (fmt.bits - 1) == 1, (1 << fmt.bits) - code, code)
    return code & ((1 << (fmt.bits - 1)) - 1)


def element_sign(sign: Tensor, value: Tensor, fmt: Format) -> Tensor:
    """The sign bit of an element of this magnitude, for the sign bit of what it was rounded from."""
    return torch.where(value == 0, 0, sign) if fmt.twos_complement else sign


def decode(magnitude: Tensor, limit: Tensor | None, fmt: Format) -> Tensor:
    """The values of magnitude codes, the finite ones no larger than ``limit``."""
    bits = (magnitude << (23 - fmt.mantissa_bits)) + ((fmt.emin + 126) << 23)
    # A subnormal code lacks the leading one: raised by a binade it reads as 2^emin more than it is worth.
    subnormal = (bits + (1 << 23)).view(torch.float32) - 2.0**fmt.emin
    value = torch.where(magnitude < (1 << fmt.mantissa_bits), subnormal, bits.view(torch.float32))
    if limit is not None:
        value = torch.minimum(value, limit)
    if fmt.has_special_codes:
        # The exponent field is all ones: so it is in the float32, which then is Inf or NaN by the same rule.
        special = (magnitude << (23 - fmt.mantissa_bits)) + ((256 - (1 << (fmt.bits - 1 - fmt.mantissa_bits))) << 23)
        value = torch.where(magnitude > fmt.largest_code, special.view(torch.float32), value)
    return value


def pack(codes: Tensor, fmt: Format) -> Tensor:
    """The bytes of codes along the last dim; the first code of a byte takes its low bits."""
    parts = codes.unflatten(-1, (codes.shape[-1] // fmt.codes_per_byte, fmt.codes_per_byte)).unbind(-1)
    packed = parts[0]
    for index, part in enumerate(parts[1:], 1):
        packed = packed | (part << (index * fmt.bits))
    return packed


def unpack(packed: Tensor, fmt: Format) -> Tensor:
    """The inverse of `pack`."""
    # Broadcast, not stacked: of a stack Inductor makes a kernel of its own, which stores every code as an int32.
    shifts = torch.arange(fmt.codes_per_byte, dtype=packed.dtype, device=packed.device) * fmt.bits
    return ((packed.unsqueeze(-1) >> shifts) & ((1 << fmt.bits) - 1)).flatten(-2)


def philox(seed: Tensor, counter: Tensor) -> tuple[Tensor, ...]:
    """Philox-4x32-10 of 64-bit counters under a 64-bit key: four int64 tensors of 32 random bits each.

    The same bits as Triton's ``tl.randint4x(seed, counter)``. Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011).
    """
    word = 0xFFFFFFFF
    key0, key1 = seed & word, (seed >> 32) & word
    c0, c1, c2, c3 = counter & word, (counter >> 32) & word, torch.zeros_like(counter), torch.zeros_like(counter)
    for _ in range(10):
        # A 32 by 32 bit product fills the 64 bits of an int64: the sign means nothing, and the mask drops what >> drags in.
        product0, product2 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = ((product2 >> 32) & word) ^ c1 ^ key0, ((product0 >> 32) & word) ^ c3 ^ key1
        c1, c3 = product2 & word, product0 & word
        key0, key1 = (key0 + 0x9E3779B9) & word, (key1 + 0xBB67AE85) & word
    return c0, c1, c2, c3


def random_bits(seed: Tensor, shape: torch.Size, piece: tuple[slice, ...] | None) -> Tensor:
    """16 random bits for each element of a piece of a tensor of this shape, by seed and logical position alone.

    Eight neighbours along the last dim share a counter, row * ceil(K / 8) + k // 8; word w serves elements 2w (low half) and 2w + 1.
    The piece starts at a multiple of eight along the last dim; None is all of it.
    """
    *rows, last = [slice(0, size) for size in shape] if piece is None else piece
    counter = torch.arange(last.start // 8, groups(last.stop, 8)[0], device=seed.device)
    stride = -(-shape[-1] // 8)
    for dim in reversed(range(len(rows))):
        position = torch.arange(rows[dim].start, rows[dim].stop, device=seed.device) * stride
        counter = counter + position.view([-1] + [1] * (len(rows) - dim))
        stride = stride * shape[dim]
    halves = [half for word in philox(seed.view(()), counter) for half in (word & 0xFFFF, word >> 16)]
    return first(torch.stack(halves, -1).flatten(-2), last.stop - last.start).to(torch.int32)


def _pieces(like: Tensor, dim: int, block_size: int, times: int = 1, together: bool = False) -> Iterator[tuple[slice, ...] | None]:
    """The pieces in which an op works: whole blocks and whole groups of eight, cut across the outermost dims in memory; None is all.

    They are ``times`` as large as they else would be, whatever the number of threads where all are on one of them ``together``.
    """
    if like.device.type != "cpu":
        yield None
        return
    most = times * PIECE
    if not together:
        most = min(most // (1 if like.stride(dim) == 1 else 2), IN_FLIGHT // torch.get_num_threads())
    sizes = list(like.shape)
    quanta = [1] * (like.ndim - 1) + [8]
    quanta[dim] = block_size
    steps = list(sizes)
    for outer in sorted(range(like.ndim), key=like.stride, reverse=True):
        rest = max(1, math.prod(steps) // max(1, steps[outer]))
        steps[outer] = min(steps[outer], max(1, most // rest // quanta[outer]) * quanta[outer])
    starts = [range(0, size, max(1, step)) for size, step in zip(sizes, steps)]
    for index in range(math.prod(map(len, starts))):
        piece = []
        for start, size, step in zip(reversed(starts), reversed(sizes), reversed(steps)):
            index, place = divmod(index, len(start))
            piece.append(slice(start[place], min(start[place] + step, size)))
        yield tuple(reversed(piece))


def _run(
    work: Callable[[tuple[slice, ...] | None], Outputs],
    pieces: Iterator[tuple[slice, ...] | None],
    outputs: Outputs,
    traced: bool,
    together: bool = False,
) -> Outputs:
    """Work on pieces, which fills the outputs; traced, on the whole at once, and what the work gives stands for them."""
    if traced:
        return work(None)
    share_out(work, pieces, together)
    return outputs


def _part(tensor: Tensor, piece: tuple[slice, ...] | None, dim: int, divisor: int = 1) -> Tensor:
    """A piece's part of a tensor that has a ``divisor``-th of the length along ``dim``; ``dim`` is moved last."""
    if piece is not None:
        blocked = slice(piece[dim].start // divisor, -(-piece[dim].stop // divisor))
        tensor = tensor[(*piece[:dim], blocked, *piece[dim + 1 :])]
    return tensor.movedim(dim, -1)


def _fill(tensor: Tensor, length: int) -> Tensor:
    """The last dim filled up to a length with zeros, which change no maximum."""
    return torch.nn.functional.pad(tensor, (0, length - tensor.shape[-1]))


def _blocks(tensor: Tensor, block_size: int) -> Tensor:
    """The last dim as [blocks, block_size], filled up where the last block may be short."""
    count, whole = groups(tensor.shape[-1], block_size)
    return (tensor if whole else _fill(tensor, count * block_size)).unflatten(-1, (count, block_size))


def _unblocks(tensor: Tensor, length: int) -> Tensor:
    """The inverse of `_blocks`.

    Inductor stores what as_strided views. So the op's consumers are fused into the kernel that has the blocks, where behind a flatten they
    go to a kernel of their own, which reads the input again (torch 2.11: 0.34 to 0.44 of a copy for fake_quant -> relu on an H100). And so
    no loop over a row divides by the block size: for CPU, Inductor leaves out the end of such a loop over a row that is no multiple of it
    (torch 2.11 to 2.15).
    """
    *outer, _, block = tensor.shape
    *strides, along, step = tensor.stride()
    if known(along == block * step) and not has_unbacked(tensor.stride()):
        return tensor.as_strided((*outer, length), (*strides, step))
    return first(tensor.flatten(-2), length)


def _write(out: Tensor, part: Tensor, dim: int, finish: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """Put what ``finish`` makes of values into a part of out. Gives out, or what stands for it in a graph that a compiler traces.

    The values have ``dim`` last, in blocks or as a whole.

    A graph holds an unbacked symbol where a size depends on the data. Where a stride holds one, Inductor lays a tensor out in an order of
    its own, and neither as_strided nor who takes the graph's outputs is told (torch 2.11 to 2.13). A tensor of one dim has one order only.
    So there the values become one, in the order of out, and are finished after that. The last step has to be an operation, in ``finish`` or
    as the conversion to out's dtype, and no view: Inductor looks through a view at what it views.
    """
    length = part.shape[-1]
    if any(has_unbacked(tensor.stride()) for tensor in (out, *values)):
        order = memory_order(out)
        if order is not None:
            wholes = [value.flatten(-2) if value.ndim > part.ndim else value for value in values]
            flat = [first(whole, length).movedim(-1, dim).permute(order).reshape(-1) for whole in wholes]
            return finish(*flat).to(out.dtype).as_strided(out.shape, out.stride())
    value = finish(*values)
    part.copy_(_unblocks(value, length) if value.ndim > part.ndim else first(value, length))
    return out


def scale_blocks(
    x: Tensor, tensor_scale: Tensor | None, fmt: Format, threshold: int, traced: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What quantize and fake_quant share: of blocks the scale bytes, the scaled magnitudes, their signs, and their grid exponents."""
    magnitude, sign = magnitude_and_sign(x, traced)
    vectors = in_vectors(x, traced)
    if vectors:
        largest = x.to(torch.float32).abs().amax(-1, keepdim=True)  # of bfloat16s Inductor may write what is no C++
        amax_bits = magnitude_and_sign(largest.to(x.dtype), traced)[0].view(torch.int32)
    else:
        amax_bits = magnitude.view(torch.int32).amax(-1, keepdim=True)
    byte = scale_byte(amax_bits, fmt, threshold) if tensor_scale is None else scale_code(amax_bits, tensor_scale, fmt)
    if vectors:
        byte = stored(byte.to(torch.uint8)).to(torch.int32)
    if tensor_scale is None:
        y = magnitude * inverse_scale(byte)
    else:
        y = quotients(magnitude, block_scale(byte, tensor_scale, fmt), fmt)
    if vectors:
        y, sign = magnitude_and_sign(stored(with_sign(y, sign, torch.float32)), traced)
    return byte, y, sign, grid_exponent(y.view(torch.int32), fmt)


def quantize(
    x: Tensor,
    elements: Tensor,
    scales: Tensor,
    seed: Tensor | None,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    threshold: int,
    traced: bool = False,
) -> tuple[Tensor, Tensor]:
    """Fill elements and scales with the codes of x."""
    tensor_scale = None if tensor_scale is None else usable(tensor_scale)
    looked_up = _is_looked_up(x, seed, tensor_scale, traced)

    def work(piece: tuple[slice, ...] | None) -> tuple[Tensor, Tensor]:
        blocks = _blocks(_part(x, piece, dim), block_size)
        if looked_up:
            byte, quotient = _quotients(blocks, fmt, threshold)
            code = _take(_codes_of_bfloat16s(fmt), quotient)
        else:
            byte, y, sign, exponent = scale_blocks(blocks, tensor_scale, fmt, threshold, traced)
            random = None if seed is None else _blocks(random_bits(seed, x.shape, piece).movedim(dim, -1), block_size)
            code = signed_code(round_to_code(y, exponent, random, fmt), sign >> (8 * sign.dtype.itemsize - 1), fmt)
            code = torch.where(byte == fmt.nan_scale, fmt.nan_code, code)
            if in_vectors(x, traced) and not has_unbacked(code.stride()):
                code = stored(code.to(torch.uint8))
        return (
            _write(elements, _part(elements, piece, dim, fmt.codes_per_byte), dim, lambda packed: packed.to(torch.uint8), pack(code, fmt)),
            _write(scales, _part(scales, piece, dim, block_size), dim, lambda byte: byte, byte.squeeze(-1)),
        )

    return _run(work, _pieces(x, dim, block_size), (elements, scales), traced)


def quantize_both(
    x: Tensor,
    elements: Tensor,
    scales: Tensor,
    elements_t: Tensor,
    scales_t: Tensor,
    seed: Tensor | None,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    threshold: int,
    traced: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`quantize` along a dim and along the one before it."""
    return (
        *quantize(x, elements, scales, seed, tensor_scale, fmt, dim, block_size, threshold, traced),
        *quantize(x, elements_t, scales_t, seed, tensor_scale, fmt, dim - 1, block_size, threshold, traced),
    )


def dequantize(
    elements: Tensor,
    scales: Tensor,
    out: Tensor,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    traced: bool = False,
) -> Tensor:
    """Fill out with the values of codes."""
    tensor_scale = None if tensor_scale is None else usable(tensor_scale)
    eager = not traced and out.device.type == "cpu" and out.numel() > 0
    looked_up = eager and tensor_scale is None and not _saturates(scales, fmt, out.dtype)
    values = _finite_scales(scales) if looked_up else scales
    together = looked_up and _is_half_of_float16(fmt)
    scratch: dict[torch.Size, tuple[Tensor, Tensor]] = {}

    def work(piece: tuple[slice, ...] | None) -> Tensor:
        packed = _part(elements, piece, dim, fmt.codes_per_byte)
        part = _part(out, piece, dim)
        if looked_up:
            scale = _part(values, piece, dim, block_size).unsqueeze(-1)
            value = _look_up_together(packed, scratch) if together else _look_up(packed, fmt)
            part.copy_(_unblocks(_blocks(value, block_size).mul_(scale), part.shape[-1]))
            return out
        byte = _part(scales, piece, dim, block_size).to(torch.int32)
        codes = _blocks(unpack(packed.to(torch.int32), fmt), block_size)
        if not known(byte.shape[-1] == codes.shape[-2]):
            byte = _fill(byte, codes.shape[-2])
        byte = byte.unsqueeze(-1)
        limit = largest_quotient(byte, out.dtype) if tensor_scale is None else None
        value = scaled(decode(magnitude_code(codes, fmt), limit, fmt), byte, tensor_scale, fmt, out.dtype)
        integer = torch.int32 if in_vectors(out, traced) else BITS[out.dtype.itemsize]
        sign = ((codes >> (fmt.bits - 1)) * torch.iinfo(integer).min).to(integer)
        _, whole = groups(part.shape[-1], block_size)
        if whole:  # then nothing has to be stored, and any consumer is fused
            value, sign = value.flatten(-2), sign.flatten(-2)
        return _write(out, part, dim, lambda value, sign: with_sign(value, sign, out.dtype), value, sign)

    times = 2 if looked_up else 1  # of half the intermediates
    return _run(work, _pieces(out, dim, block_size, times, together), out, traced, together)


def _saturates(scales: Tensor, fmt: Format, dtype: torch.dtype) -> bool:
    """Whether in some block a code times the scale may be beyond a dtype's range, or the scale is NaN; MXINT8's -128, too, which is -2."""
    return bool(largest_quotient(scales.amax().to(torch.int32), dtype) < 2.0 ** (fmt.emax + 1))


def _finite_scales(byte: Tensor) -> Tensor:
    """`scale_value` of bytes none of which is 255, without intermediates."""
    return byte.to(torch.int32).bitwise_left_shift_(23).clamp_min_(0x400000).view(torch.float32)


def _is_half_of_float16(fmt: Format) -> bool:
    """Whether a code is the upper byte of a float16."""
    return fmt.bits == 8 and 2.0**fmt.emin == torch.finfo(torch.float16).tiny


def _look_up_together(packed: Tensor, scratch: dict[torch.Size, tuple[Tensor, Tensor]]) -> Tensor:
    """The values of upper bytes of float16s, float32: three operations, and no look-up, which torch would do in one thread.

    So short are they that threads, each alone with a piece, would wait for Python more than they work: they share each operation, though
    they meet after it. Nor is any memory asked for a second time: where the allocator takes it fresh from the system, its pages take
    longer than the work. (2048x4096 to bfloat16, in ms, memory at hand and fresh: 2.9 and 7.7; asking anew 3.1 and 20.6; alone 5.3 and 11.)
    """
    if packed.shape not in scratch:
        scratch[packed.shape] = packed.new_empty(packed.shape, dtype=torch.int16), packed.new_empty(packed.shape, dtype=torch.float32)
    bits, values = scratch[packed.shape]
    return values.copy_(bits.copy_(packed).bitwise_left_shift_(8).view(torch.float16))


def _look_up(packed: Tensor, fmt: Format) -> Tensor:
    """The values of packed codes, by a table: of 2^17 in 0.11 ms, where `decode` takes 0.67."""
    table = _table(fmt)
    values = table.index_select(0, packed.to(torch.int64, memory_format=torch.contiguous_format).flatten())
    return values.view(torch.float32).view(*packed.shape[:-1], packed.shape[-1] * fmt.codes_per_byte)


@functools.cache
def _table(fmt: Format) -> Tensor:
    """The values of each byte of codes, float32, as one number: to look up one for a byte is faster than to look up several."""
    codes = unpack(torch.arange(256, dtype=torch.int32, device="cpu"), fmt)
    return _values(codes & ((1 << fmt.bits) - 1), fmt).view({1: torch.float32, 2: torch.int64}[fmt.codes_per_byte])


def _values(codes: Tensor, fmt: Format) -> Tensor:
    """The values of codes, float32."""
    return with_sign(decode(magnitude_code(codes, fmt), None, fmt), (codes >> (fmt.bits - 1)) << 31, torch.float32)


def _is_looked_up(x: Tensor, seed: Tensor | None, tensor_scale: Tensor | None, traced: bool) -> bool:
    """Whether what x becomes is looked up, by its quotients: of bfloat16s by powers of two, which are bfloat16s, there are 2^16.

    Measured (AMD EPYC, torch 2.13): on one core 2^18 take 0.15 ms to look up, after 0.15 for their quotients; by the formulas 1.9. On two,
    quantize and fake_quant to MXFP8 of 2048x4096 take 17 and 17 ms along the last dim, where formulas took 30 and 19, and 34 and 29 along
    dim 0, where they took 44 and 39.
    """
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and not traced and seed is None and tensor_scale is None


def _quotients(x: Tensor, fmt: Format, threshold: int) -> tuple[Tensor, Tensor]:
    """The scale bytes of blocks, and the bits of elements divided by them, as int32; all NaN in a NaN block.

    Quotients too small for a bfloat16 are rounded to one, and become 0.
    """
    byte = scale_byte((x.view(torch.int16) & 0x7FFF).to(torch.int32).amax(-1, keepdim=True) << 16, fmt, threshold)
    inverse = torch.where(byte == 255, math.nan, inverse_scale(byte)).to(torch.bfloat16)
    return byte, (x * inverse).view(torch.uint16).to(torch.int32)


def _take(table: Tensor, index: Tensor) -> Tensor:
    """table[index], laid out in memory as the index is."""
    order = sorted(range(index.ndim), key=index.stride, reverse=True)
    index = index.permute(order)
    return table.index_select(0, index.reshape(-1)).view(index.shape).permute([order.index(dim) for dim in range(index.ndim)])


@functools.cache
def _codes_of_bfloat16s(fmt: Format) -> Tensor:
    """What bfloat16s become, by their bits, under a scale of 1."""
    x = (torch.arange(1 << 16, dtype=torch.int32, device="cpu") << 16).view(torch.float32)
    magnitude, sign = magnitude_and_sign(x, traced=False)
    code = signed_code(round_to_code(magnitude, grid_exponent(magnitude.view(torch.int32), fmt), None, fmt), sign >> 31, fmt)
    return torch.where(x.isnan(), fmt.nan_code, code).to(torch.uint8)


@functools.cache
def _values_of_bfloat16s(fmt: Format) -> Tensor:
    """The values of these codes."""
    return _values(_codes_of_bfloat16s(fmt).to(torch.int32), fmt).to(torch.bfloat16)


def fake_quant(
    x: Tensor,
    out: Tensor,
    seed: Tensor | None,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    threshold: int,
    traced: bool = False,
) -> Tensor:
    """Fill out with the values of the codes of x."""
    tensor_scale = None if tensor_scale is None else usable(tensor_scale)
    looked_up, largest = _is_looked_up(x, seed, tensor_scale, traced), torch.finfo(out.dtype).max

    def work(piece: tuple[slice, ...] | None) -> Tensor:
        blocks, part = _blocks(_part(x, piece, dim), block_size), _part(out, piece, dim)
        if looked_up:
            byte, quotient = _quotients(blocks, fmt, threshold)
            value = _take(_values_of_bfloat16s(fmt), quotient).mul_(scale_value(byte).to(torch.bfloat16)).clamp_(-largest, largest)
            part.copy_(_unblocks(value, part.shape[-1]))
            return out
        byte, y, sign, exponent = scale_blocks(blocks, tensor_scale, fmt, threshold, traced)
        random = None if seed is None else _blocks(random_bits(seed, x.shape, piece).movedim(dim, -1), block_size)
        rounded = round_to_value(y, exponent, random, fmt)
        if tensor_scale is None:
            rounded = torch.minimum(rounded, largest_quotient(byte, out.dtype).clamp_max(fmt.largest))
        value, sign = scaled(rounded, byte, tensor_scale, fmt, out.dtype), element_sign(sign, rounded, fmt)
        return _write(out, part, dim, lambda value, sign: with_sign(value, sign, out.dtype), value, sign)

    return _run(work, _pieces(x, dim, block_size), out, traced)


def tensor_scale(x: Tensor, out: Tensor, fmt: Format, traced: bool = False) -> Tensor:
    """Fill out with the scale under which x's largest magnitude is the format's largest number; NaN if x holds one."""
    assert fmt.scale is not None
    if known(x.numel() == 0):
        amax = x.new_zeros((), dtype=torch.float32)
    elif traced:  # in one pass with what comes before, which is rounded to x's dtype
        magnitude = magnitude_and_sign(x, traced)[0]
        if not known(x.numel() > 0):  # a zero more along each dim, so that there is a maximum
            magnitude = torch.nn.functional.pad(magnitude, (0, 1) * x.ndim)
        amax = magnitude.amax()
    else:  # in one pass, with nothing stored
        least, most = torch.aminmax(x)
        amax = torch.maximum(-least, most).abs().to(torch.float32)  # the sign of 0, and of a NaN, is not to be left
    return out.copy_(divide(amax, fmt.largest * fmt.scale.largest))


def _tiles(swizzled: Tensor, row_tiles: int, column_tiles: int) -> Tensor:
    """Swizzled bytes as [..., row tiles, 4, 32, column tiles, 4]: the row and the column of each, in order.

    A tile of 128 rows and 4 columns is 512 bytes: 32 times four groups of rows, of 4 bytes each; the tiles are row-major. So the byte of
    row i and column j is at (i // 128 * column tiles + j // 4) * 512 + i % 32 * 16 + i % 128 // 32 * 4 + j % 4. Source: cuBLAS, "1D block
    scaling factors layout".
    """
    return swizzled.view(*swizzled.shape[:-2], row_tiles, column_tiles, 32, 4, 4).transpose(-4, -2)


def _rows_and_columns(matrix: Tensor, row_tiles: int, column_tiles: int) -> Tensor:
    """A matrix of whole tiles as `_tiles` has it."""
    return matrix.unflatten(-1, (column_tiles, 4)).unflatten(-3, (row_tiles, 4, 32))


def _places(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The row and the column of each place in a matrix."""
    rows, columns = (torch.arange(size, device=matrix.device) for size in matrix.shape[-2:])
    return rows.unsqueeze(-1), columns


# Both work by views where sizes are numbers: one copy, if tiles are whole. Traced, they work by places, of which a compiler makes one loop
# as well: of the views torch makes guards, on whether there is one tile and whether all are whole, which an AOTInductor package ignores.


def swizzle_scales(scales: Tensor, out: Tensor, row_tiles: int, column_tiles: int, traced: bool = False) -> Tensor:
    """Fill out with scales, tile by tile, and zeros where a tile has none."""
    *_, rows, columns = scales.shape
    if traced:
        i, j = _places(out)
        place = i * (4 * column_tiles) + j
        tile = place // 512
        i = tile // column_tiles * 128 + place % 16 // 4 * 32 + place % 512 // 16
        j = tile % column_tiles * 4 + place % 4
        inside = (i < rows) & (j < columns)
        bytes_there = scales[..., i.clamp_max(rows - 1), j.clamp_max(columns - 1)]
        return _write(out, out, out.ndim - 1, lambda there, inside: torch.where(inside, there, 0), bytes_there, inside.expand_as(out))
    whole = (rows, columns) == (128 * row_tiles, 4 * column_tiles)
    if not (whole and scales.is_contiguous() and scales.storage_offset() % 4 == 0):
        scales = torch.nn.functional.pad(scales, (0, 4 * column_tiles - columns, 0, 128 * row_tiles - rows)).contiguous()
    # The four columns of a tile stay together: copied as one int32, 4 MB take 2.0 ms of a CPU's core, and byte by byte 10.3 ms.
    tiles, matrix = _tiles(out, row_tiles, column_tiles), _rows_and_columns(scales, row_tiles, column_tiles)
    tiles.view(torch.int32).copy_(matrix.view(torch.int32))
    return out


def unswizzle_scales(swizzled: Tensor, out: Tensor, row_tiles: int, column_tiles: int, traced: bool = False) -> Tensor:
    """Fill out with the scales that are swizzled."""
    *_, rows, columns = out.shape
    if traced:
        i, j = _places(out)
        place = (i // 128 * column_tiles + j // 4) * 512 + i % 32 * 16 + i % 128 // 32 * 4 + j % 4
        return _write(out, out, out.ndim - 1, lambda byte: byte | 0, swizzled[..., place // (4 * column_tiles), place % (4 * column_tiles)])
    tiles = _tiles(swizzled.contiguous(), row_tiles, column_tiles)
    if (rows, columns) == (128 * row_tiles, 4 * column_tiles) and tiles.storage_offset() % 4 == 0:
        _rows_and_columns(out, row_tiles, column_tiles).view(torch.int32).copy_(tiles.view(torch.int32))
    else:
        out.copy_(tiles.flatten(-5, -3).flatten(-2)[..., :rows, :columns])
    return out
