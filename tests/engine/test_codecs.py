"""Arrays that are stored in 16 or 8 bits: every codec against a plain reference, on each instruction set."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from cyoptim import _dispatch
from cyoptim._engine import CODECS, decode_array, encode_array
from tests.support.bits import use_isa

Array = np.ndarray[Any, Any]

SIXTEEN = ("bfloat16", "float16")
STOCHASTIC = ("bfloat16_stochastic", "float16_stochastic")
MASTER = ("bfloat16_master", "float16_master")
EIGHT = ("float8", "float8_positive", "dynamic8", "dynamic8_positive")
DYNAMIC = ("dynamic8", "dynamic8_positive")
BLOCK = 256
LEAST_NORMAL = np.float32(2.0**-126)


@pytest.fixture(params=_dispatch.LEVELS)
def isa(request: pytest.FixtureRequest) -> str:
    use_isa(request.param)
    return str(request.param)


def new(codec: str, size: int) -> tuple[Array, Array | None]:
    """An array of zeros as the codec stores it, and its partner."""
    if codec in EIGHT:
        return np.zeros(size, np.uint8), np.zeros(-(-size // BLOCK), np.float32)
    if codec == "bfloat16_split":
        return np.zeros(size, np.uint16), np.zeros(size, np.int16)
    if codec in MASTER:
        return np.zeros(size, np.uint16), np.zeros(size, np.float32)
    return np.zeros(
        size, {"float32": np.float32, "float64": np.float64}.get(codec, np.uint16)
    ), None


def encoded(codec: str, values: Array, key: int = 0, piece: int = 512) -> tuple[Array, Any]:
    stored, partner = new(codec, values.size)
    encode_array(np.ascontiguousarray(values, np.float32), stored, partner, codec, key, piece)
    return stored, partner


def floats(bits: Any) -> Array:
    return np.asarray(bits, np.uint32).view(np.float32)


def bits(values: Any) -> Array:
    return np.asarray(values, np.float32).view(np.uint32)


def near_everything() -> Array:
    """2**24 floats: of each sign and exponent those at, next to and between all that 16 bits have, and halfway."""
    upper = np.arange(1 << 19, dtype=np.uint32) << 13
    ends = [0, 1, 2, 3, 0xFFE, 0xFFF, 0x1000, 0x1001, 0x1002, 0x1FFD, 0x1FFE, 0x1FFF]
    lower = np.r_[ends, np.random.default_rng(1).integers(0, 0x2000, 32 - len(ends))]
    return floats((upper[:, None] | lower.astype(np.uint32)).ravel())


def nearest_bfloat16(values: Array) -> Array:
    b = bits(values).astype(np.uint64)
    return ((b + 0x7FFF + (b >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16)


def nearest_float16(values: Array) -> Array:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).view(np.uint16)


NEAREST = {"bfloat16": nearest_bfloat16, "float16": nearest_float16}


def widened(codec: str, stored: Array) -> Array:
    if codec.startswith("bfloat16"):
        return floats(stored.astype(np.uint32) << 16)
    return stored.view(np.float16).astype(np.float32)


def assert_same_bits(found: Array, expected: Array) -> None:
    """Equal to the last bit, but for the payloads of NaNs, which both must have at the same places."""
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    np.testing.assert_array_equal(bits(found)[~nan], bits(expected)[~nan])


@pytest.mark.parametrize("codec", SIXTEEN)
def test_every_number_of_16_bits(isa: str, codec: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    found = decode_array(every, None, codec)
    assert_same_bits(found, widened(codec, every))
    back, _ = encoded(codec, found)  # and NaNs stay what they are, but quiet
    number = ~np.isnan(found)
    np.testing.assert_array_equal(back[number], every[number])
    assert np.isnan(widened(codec, back[~number])).all()
    np.testing.assert_array_equal(back[~number] & 0x803F, every[~number] & 0x803F)


@pytest.mark.slow
@pytest.mark.parametrize("codec", SIXTEEN)
def test_to_nearest(isa: str, codec: str) -> None:
    values = near_everything()
    found, _ = encoded(codec, values)
    nan = np.isnan(values)
    np.testing.assert_array_equal(found[~nan], NEAREST[codec](values[~nan]))
    assert np.isnan(widened(codec, found[nan])).all()


@pytest.mark.slow
def test_to_nearest_is_as_in_ml_dtypes(isa: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = near_everything()
    found, _ = encoded("bfloat16", values)
    with np.errstate(invalid="ignore"):
        expected = values.astype(ml_dtypes.bfloat16)
    assert_same_bits(found.view(ml_dtypes.bfloat16).astype(np.float32), expected.astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("codec", SIXTEEN)
def test_every_float_to_nearest(codec: str) -> None:
    # Rounding is monotonic: each number of 16 bits comes from the floats between two bounds, halfway to its
    # neighbours. Infinity is where the next number would be.
    infinity = 0x7F80 if codec == "bfloat16" else 0x7C00
    numbers = widened(codec, np.arange(infinity, dtype=np.uint16)).astype(np.float64)
    numbers = np.r_[numbers, 2.0 ** (128 if codec == "bfloat16" else 16)]
    is_odd = np.arange(1, infinity + 1) % 2
    bounds = bits((numbers[:-1] + numbers[1:]) / 2) + is_odd.astype(np.uint32)
    for start in range(0, 0x80000000, 1 << 20):
        b = np.arange(start, start + (1 << 20), dtype=np.uint32)
        edges = np.r_[start, np.clip(bounds, b[0], b[-1] + 1), start + (1 << 20)]
        expected = np.repeat(np.arange(infinity + 1, dtype=np.uint16), np.diff(edges))
        nan = slice(np.searchsorted(b, 0x7F800001), None)
        for sign in (0, 0x8000):
            found, _ = encoded(codec, floats(b | np.uint32(sign << 16)))
            assert np.isnan(widened(codec, found[nan])).all()
            found[nan] = expected[nan] | sign
            assert np.array_equal(found, expected | sign)


@pytest.mark.slow
def test_split_has_the_bytes_of_transformer_engine(isa: str) -> None:
    values = near_everything()
    nan = np.isnan(values)
    upper, lower = encoded("bfloat16_split", values)
    b = bits(values)
    np.testing.assert_array_equal(upper[~nan], ((b + 0x8000) >> 16).astype(np.uint16)[~nan])
    np.testing.assert_array_equal(lower[~nan], b.astype(np.uint16).view(np.int16)[~nan])
    back = decode_array(upper, lower, "bfloat16_split")
    lost = b & 0x7FFFFFFF < 0x8000  # their upper half is 0; a step flushes all denormals
    assert_same_bits(back[~lost], values[~lost])
    np.testing.assert_array_equal(bits(back[lost]), bits(values[lost]) & 0x80000000)
    assert np.isnan(widened("bfloat16", upper[nan])).all()


def test_a_written_parameter_wins_over_its_remainder(isa: str) -> None:
    upper, lower = encoded("bfloat16_split", np.random.default_rng(2).standard_normal(1000))
    assert set(np.sign(lower)) >= {-1, 1}
    for number in (0.0, -0.0, 1.0, -3.0e-5):
        (written,), _ = encoded("bfloat16", np.array([number]))
        back = decode_array(np.full_like(upper, written), lower, "bfloat16_split")
        expected = widened("bfloat16", np.array([written]))
        assert (np.signbit(back) == np.signbit(expected)).all()
        assert (np.abs(back - expected) <= 2.0**-8 * np.abs(expected)).all()


@pytest.mark.parametrize("codec", MASTER)
def test_a_master_keeps_the_float32_until_the_parameter_is_written(isa: str, codec: str) -> None:
    plain = codec.removesuffix("_master")
    values = np.random.default_rng(3).standard_normal(5000).astype(np.float32)
    values[:6] = 0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30
    stored, master = encoded(codec, values)
    np.testing.assert_array_equal(stored, encoded(plain, values)[0])
    np.testing.assert_array_equal(bits(master), bits(values))
    np.testing.assert_array_equal(bits(decode_array(stored, master, codec)), bits(values))
    written, _ = encoded(plain, np.random.default_rng(4).standard_normal(5000))
    expected = np.where(written == stored, values, widened(plain, written))
    np.testing.assert_array_equal(bits(decode_array(written, master, codec)), bits(expected))
    np.testing.assert_array_equal(  # a master of zeros has not begun
        bits(decode_array(stored, np.zeros_like(master), codec)[:4]), bits(values[:4])
    )
    begun = decode_array(written, np.zeros_like(master), codec)
    np.testing.assert_array_equal(begun, widened(plain, written))


def hashed(key: int, size: int) -> Array:
    """The random 16 bits of each element, one after the other."""

    def mixed(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    step = 0x9E3779B97F4A7C15
    draws = []
    for i in range(size):
        block = mixed((mixed((key + step) % 2**64) + (i // BLOCK + 1) * step) % 2**64) >> 32
        draws.append((block + i % BLOCK * 0x9E3779B1) % 2**32 >> 16)
    return np.array(draws, np.uint32)


def rounded_stochastically(codec: str, values: Array, draws: Array) -> Array:
    """Each value to the next number above in magnitude if its place between the two is above 1 - draw / 2**16."""
    x = np.abs(values.astype(np.float64))
    exponent = np.floor(np.log2(np.maximum(x, 2.0**-140)))
    exponent = np.floor(np.log2(np.where(x >= 2.0**exponent, x, 2.0**exponent)))
    digits = 7 if codec.startswith("bfloat16") else 10
    ulp = 2.0 ** np.maximum(exponent - digits, -133 if digits == 7 else -24)
    places = 16 if digits == 7 else np.where(x < 2.0**-14, 16, 13)
    share = np.floor(x / ulp % 1 * 2.0**places) + (
        draws.astype(np.int64) >> (16 - np.asarray(places))
    )
    up = share >= 2.0**places
    return np.copysign((np.floor(x / ulp) + up) * ulp, values).astype(np.float32)


def between_numbers() -> Array:
    rng = np.random.default_rng(5)
    scales = 2.0 ** rng.integers(-30, 15, 3000)
    return (rng.standard_normal(3000) * scales).astype(np.float32)


@pytest.mark.parametrize("codec", STOCHASTIC)
def test_stochastic_rounding_of_each_element(isa: str, codec: str) -> None:
    values = between_numbers()
    found, _ = encoded(codec, values, key=2**63 + 12345)
    expected = rounded_stochastically(codec, values, hashed(2**63 + 12345, values.size))
    np.testing.assert_array_equal(bits(widened(codec, found)), bits(expected))


@pytest.mark.parametrize("codec", STOCHASTIC)
@pytest.mark.parametrize("piece", [1, 7, 100, 256, 300])
def test_pieces_do_not_matter_to_random_bits(isa: str, codec: str, piece: int) -> None:
    values = between_numbers()
    found, _ = encoded(codec, values, key=99, piece=piece)
    np.testing.assert_array_equal(found, encoded(codec, values, key=99)[0])


@pytest.mark.slow
@pytest.mark.parametrize("codec", STOCHASTIC)
def test_the_mean_of_stochastic_rounding(isa: str, codec: str) -> None:
    # Over the keys an element is one of two neighbours, up with the probability p of its place between them.
    values, keys = np.r_[between_numbers()[:1000], floats(0x3F800000 + (np.arange(24) << 11))], 4096
    values = values[(np.abs(values) > 2.0**-24) & (np.abs(values) < 2.0**15)]
    found = np.array(
        [widened(codec, encoded(codec, values, key)[0]) for key in range(keys)], np.float64
    )
    low, high = (
        rounded_stochastically(codec, values, np.full(values.size, draw)).astype(np.float64)
        for draw in (0, 0xFFFF)
    )
    step = np.where(low == high, 1, high - low)
    p = (values - low) / step
    assert ((found == low) | (found == high)).all()
    assert (
        np.abs(found.mean(axis=0) - values) / np.abs(step)
        <= 5 * np.sqrt(p * (1 - p) / keys) + 2.0**-16
    ).all()


@pytest.mark.parametrize("codec", STOCHASTIC)
def test_stochastic_rounding_keeps_what_is_representable(isa: str, codec: str) -> None:
    plain = codec.removesuffix("_stochastic")
    every = np.arange(1 << 16, dtype=np.uint16)
    values = decode_array(every, None, plain)
    for key in range(4):
        found, _ = encoded(codec, values, key)
        np.testing.assert_array_equal(found, encoded(plain, values)[0])


@pytest.mark.parametrize("codec", STOCHASTIC)
def test_what_is_above_the_largest_number_may_become_infinite(isa: str, codec: str) -> None:
    largest = widened(codec, np.array([0x7F7F if codec.startswith("b") else 0x7BFF], np.uint16))[0]
    values = np.full(1000, largest * np.float32(1.0002))
    found = widened(codec, encoded(codec, values)[0])
    assert set(found.tolist()) == {float(largest), np.inf}
    huge = floats([0x7F7FFFFF] * 300) if codec.startswith("b") else np.full(300, 1e6)
    assert np.isinf(widened(codec, encoded(codec, -huge)[0])).mean() > 0.9


def dynamic_map(codec: str) -> Array:
    """The numbers of the codes, as bitsandbytes describes them: 0, 1, and the middles of 2^i equal parts of
    [0.1, 1], of both signs or twice as many, in decade i - 6."""
    numbers = [0.0, 1.0]
    for i in range(7):
        parts = 2**i if codec == "dynamic8" else 2 ** (i + 1)
        middles = 10.0 ** (i - 6) * (0.1 + 0.9 * (np.arange(parts) + 0.5) / parts)
        numbers += [*middles, *(-middles if codec == "dynamic8" else ())]
    return np.sort(np.array(numbers))


def code_numbers(codec: str) -> Array:
    """The numbers of all codes, at the scale 1, from the codec itself."""
    return decode_array(np.arange(256, dtype=np.uint8), np.ones(1, np.float32), codec)


@pytest.mark.parametrize("codec", DYNAMIC)
def test_dynamic_maps(isa: str, codec: str) -> None:
    # torch computes them in float32, so they are a few of its ulps from the float64.
    np.testing.assert_allclose(code_numbers(codec), dynamic_map(codec), rtol=2e-7)


@pytest.mark.libraries
@pytest.mark.parametrize("codec", DYNAMIC)
def test_dynamic_maps_are_those_of_torchao_and_bitsandbytes(torch: Any, codec: str) -> None:
    numbers = [0.0, 1.0]  # create_dynamic_map of both
    for i in range(7):
        parts = 2**i if codec == "dynamic8" else 2 ** (i + 1)
        edges = torch.linspace(0.1, 1, parts + 1, dtype=torch.float32)
        middles = 10 ** (i - 6) * ((edges[:-1] + edges[1:]) / 2)
        numbers += [*middles.tolist(), *((-middles).tolist() if codec == "dynamic8" else ())]
    # Without fused instructions torch rounds its products, too.
    fused = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    expected = np.sort(np.array(numbers, np.float32))
    np.testing.assert_array_max_ulp(code_numbers(codec), expected, 0 if fused else 2)


@pytest.mark.libraries
@pytest.mark.parametrize("codec", DYNAMIC)
def test_codes_are_those_of_torchao(torch: Any, codec: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ao = pytest.importorskip("torchao.optim.quant_utils", exc_type=ImportError)
    qmap = torch.tensor(ao.create_dynamic_map(codec == "dynamic8", 7, 8))
    values = np.random.default_rng(12).standard_normal(1 << 18).astype(np.float32)
    values = values if codec == "dynamic8" else np.square(values)
    scaled, scales = ao.scale_tensor(torch.from_numpy(values), BLOCK)
    expected = ao.quantize_8bit_with_qmap(scaled, qmap).numpy()
    codes, found_scales = encoded(codec, values)
    np.testing.assert_array_equal(found_scales, scales.numpy())
    # What torchao compares is rounded; and it lets numbers above zero become zero.
    different = codes != expected
    assert np.count_nonzero(different & (expected != 0)) <= 3
    assert np.abs(codes[different].astype(int) - expected[different]).max(initial=0) <= 1
    decoded = decode_array(codes, found_scales, codec)
    ours = ao.dequant_with_qmap(torch.from_numpy(codes), qmap, scales).numpy()
    np.testing.assert_array_max_ulp(decoded, ours, 2)


def nearest_codes(codec: str, values: Array, scales: Array) -> Array:
    """The codes whose numbers are nearest to the quotients, ties up: all 256 distances are looked at."""
    y = values / np.where(scales == 0, np.float32(1), scales)
    numbers = code_numbers(codec).astype(np.float64)
    codes = np.empty(values.size, np.uint8)
    for start in range(0, values.size, 4096):
        distances = np.abs(y[start : start + 4096, None].astype(np.float64) - numbers[::-1])
        codes[start : start + 4096] = 255 - distances.argmin(axis=1)
    if codec.endswith("positive"):
        codes[(codes == 0) & (values >= LEAST_NORMAL)] = 1
    return codes


def scales_of(values: Array) -> Array:
    """The scale of each element's block."""
    padded = np.zeros(-(-values.size // BLOCK) * BLOCK, np.float32)
    padded[: values.size] = np.abs(values)
    return padded.reshape(-1, BLOCK).max(axis=1).repeat(BLOCK)[: values.size]


def assert_nearest_codes(codec: str, values: Array) -> None:
    codes, scales = encoded(codec, values)
    expected = scales_of(values)
    np.testing.assert_array_equal(scales.repeat(BLOCK)[: values.size], expected)
    np.testing.assert_array_equal(codes, nearest_codes(codec, values, expected))


def beside_one(quotients: Array) -> Array:
    """Blocks in which the first element is 1, so that the others are their quotients."""
    rest = np.zeros(-(-quotients.size // (BLOCK - 1)) * (BLOCK - 1), np.float32)
    rest[: quotients.size] = quotients
    return np.insert(rest.reshape(-1, BLOCK - 1), 0, 1, axis=1).astype(np.float32).ravel()


@pytest.mark.parametrize("codec", DYNAMIC)
def test_every_tie_of_a_dynamic_map(isa: str, codec: str) -> None:
    numbers = code_numbers(codec)
    ties = ((numbers[:-1].astype(np.float64) + numbers[1:]) / 2).astype(np.float32)
    centre = bits(np.r_[ties, numbers, -ties, -numbers]).astype(np.int64)
    near = floats(((centre[:, None] + np.arange(-3, 4)) % 2**32).astype(np.uint32)).ravel()
    near = near[np.abs(near) <= 1]
    assert_nearest_codes(codec, beside_one(near))


@pytest.mark.slow
@pytest.mark.parametrize("codec", DYNAMIC)
@pytest.mark.parametrize("kind", ["normal", "even in its logarithm", "squares", "few digits"])
def test_dynamic_codes_are_the_nearest(isa: str, codec: str, kind: str) -> None:
    rng = np.random.default_rng(6)
    values = rng.standard_normal(1 << 18)
    if kind == "even in its logarithm":
        values = np.sign(values) * np.exp(rng.uniform(-18, 0, values.size))
    elif kind == "squares":
        values = values**2 * 1e-12
    elif kind == "few digits":  # many of them are ties
        values = np.round(values * 256) / 256
    assert_nearest_codes(codec, values.astype(np.float32))


@pytest.mark.parametrize("codec", ["float8_positive", "dynamic8_positive"])
def test_what_is_above_zero_stays_above_zero(isa: str, codec: str) -> None:
    for least in (LEAST_NORMAL, np.float32(1e-20)):
        values = np.full(1000, least)
        values[::300] = 1e5
        values[1::3] = 0
        codes, _ = encoded(codec, values)
        np.testing.assert_array_equal(codes == 0, values == 0)
        plain, _ = encoded(codec.removesuffix("_positive"), values)
        assert (
            decode_array(plain, np.ones(4, np.float32), codec.removesuffix("_positive"))[2:200:3]
            == 0
        ).all()
    alone, scales = encoded(codec, np.full(300, LEAST_NORMAL))
    assert (alone != 0).all()
    assert (scales >= LEAST_NORMAL).all()


@pytest.mark.parametrize("codec", ["float16_positive", "float16_positive_stochastic"])
def test_halves_above_zero_stay_above_zero(isa: str, codec: str) -> None:
    values = np.exp(np.random.default_rng(13).uniform(-80, 10, 5000)).astype(np.float32)
    values[::7], values[1::7], values[2] = 0, -values[1::7], LEAST_NORMAL
    found, _ = encoded(codec, values, key=5)
    plain, _ = encoded(codec.replace("_positive", ""), values, key=5)
    lost = (plain == 0) & (values > 0)
    assert lost.any()
    np.testing.assert_array_equal(found, np.where(lost, 1, plain))


def test_every_code_of_float8(isa: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    codes = np.arange(256, dtype=np.uint8)
    for scale in (1.0, 0.37, 2.0**-100):
        found = decode_array(codes, np.array([scale], np.float32), "float8")
        expected = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(scale)
        assert_same_bits(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["float8", "float8_positive"])
def test_codes_of_float8(isa: str, codec: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(7)
    numbers = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    ties = (numbers[:-1] + numbers[1:]) / 2
    near = floats(
        (bits(np.r_[ties, numbers[1:]])[:, None].astype(np.int64) + np.arange(-3, 4)).astype(
            np.uint32
        )
    )
    quotients = np.r_[
        near.ravel(), rng.standard_normal(1 << 18) * 20, np.exp(rng.uniform(-12, 6, 1 << 18))
    ]
    quotients[1::2] *= -1
    values = beside_one(quotients[np.abs(quotients) <= 448].astype(np.float32))
    values[values == 1] = 448  # the scale is 1
    for factor in (1.0, 0.77):
        some = (values * np.float32(factor)).astype(np.float32)
        codes, scales = encoded(codec, some)
        expected_scales = scales_of(some) / np.float32(448)
        np.testing.assert_array_equal(scales.repeat(BLOCK)[: some.size], expected_scales)
        expected = (some / expected_scales).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
        if codec == "float8_positive":
            expected[(expected == 0) & (some > 0)] = 1
        np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize("codec", EIGHT)
def test_blocks_without_a_number(isa: str, codec: str) -> None:
    values = np.zeros(4 * BLOCK, np.float32)
    values[BLOCK : 2 * BLOCK] = 1e-40  # flushed
    values[2 * BLOCK] = np.inf
    values[2 * BLOCK + 1 :: 2] = 1
    values[3 * BLOCK] = np.nan
    codes, scales = encoded(codec, values)
    np.testing.assert_array_equal(scales, [0, 0, np.inf, np.nan])
    back = decode_array(codes, scales, codec)
    assert (back[: 2 * BLOCK] == 0).all()
    assert not np.isfinite(back[2 * BLOCK :]).any()
    nothing, _ = encoded(codec, np.zeros(3))
    assert set(nothing.tolist()) == {127 if codec == "dynamic8" else 0}


@pytest.mark.parametrize("codec", EIGHT)
@pytest.mark.parametrize("size", [0, 1, 15, 255, 256, 257, 511, 513, 1000, 16385])
def test_a_short_last_block(isa: str, codec: str, size: int) -> None:
    values = np.random.default_rng(8).standard_normal(-(-size // BLOCK) * BLOCK).astype(np.float32)
    values[size:] = 0
    codes, scales = encoded(codec, values[:size])
    whole, whole_scales = encoded(codec, values)
    np.testing.assert_array_equal(codes, whole[:size])
    np.testing.assert_array_equal(scales, whole_scales)
    back = decode_array(codes, scales, codec)
    np.testing.assert_array_equal(back, decode_array(whole, whole_scales, codec)[:size])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, 1, 15, 17, 511, 512, 513, 1500])
def test_nothing_beside_the_array_is_written(isa: str, codec: str, size: int) -> None:
    values = np.random.default_rng(9).standard_normal(size).astype(np.float32)
    stored, partner = new(codec, size + 600)
    stored.view(np.uint8)[:] = 77
    if partner is not None:
        partner.view(np.uint8)[:] = 77
    count = None if partner is None else -(-size // BLOCK) if codec in EIGHT else size
    encode_array(values, stored[:size], None if partner is None else partner[:count], codec)
    assert (stored[size:].view(np.uint8) == 77).all()
    assert partner is None or (partner[count:].view(np.uint8) == 77).all()
    alone = encoded(codec, values)
    np.testing.assert_array_equal(stored[:size], alone[0])
    assert decode_array(alone[0], alone[1], codec).shape == (size,)


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_same_bits_on_each_instruction_set(codec: str) -> None:
    rng = np.random.default_rng(10)
    values = floats(rng.integers(0, 1 << 32, 1 << 20, dtype=np.uint32))
    values[: 1 << 19] = np.exp(rng.uniform(-30, 5, 1 << 19)) * rng.choice([-1, 1], 1 << 19)
    values[5 << 10 :: 999] = np.nan
    found = []
    for name in _dispatch.available():
        _dispatch.use(name)
        stored, partner = encoded(codec, values[:-77], key=4711)
        back = decode_array(stored, partner, codec)
        rest = b"" if partner is None else partner.tobytes()
        found.append((stored.tobytes(), rest, bits(back)[~np.isnan(back)].tobytes()))
    assert all(other == found[0] for other in found)


def test_float64_and_float32(isa: str) -> None:
    values = np.random.default_rng(11).standard_normal(1000)
    np.testing.assert_array_equal(decode_array(values, None, "float64"), values.astype(np.float32))
    single = values.astype(np.float32)
    np.testing.assert_array_equal(decode_array(single, None, "float32"), single)
    np.testing.assert_array_equal(encoded("float64", single)[0], single.astype(np.float64))
    np.testing.assert_array_equal(encoded("float32", single)[0], single)


def test_the_order_of_elements_is_that_of_memory() -> None:
    values = np.asfortranarray(np.arange(600, dtype=np.float32).reshape(20, 30))
    stored, rest = np.zeros((20, 30), np.uint16, order="F"), np.zeros((20, 30), np.int16, order="F")
    encode_array(values, stored, rest, "bfloat16_split")
    back = decode_array(stored, rest, "bfloat16_split")
    assert back.flags.f_contiguous
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize(
    ("stored", "partner", "codec", "message"),
    [
        (
            np.zeros(3, np.uint16),
            None,
            "float12",
            r"codec 'float12', expected one of float32, float64, ",
        ),
        (
            np.zeros(3, np.uint8),
            None,
            "float16",
            r"of float16 the stored array has dtype uint8.* elements of 2 bytes",
        ),
        (
            np.zeros(6, np.uint16)[::2],
            None,
            "float16",
            r"strides \(4,\), expected elements of 2 bytes, aligned",
        ),
        (np.zeros(3, np.uint16), np.zeros(3), "float16", "float16 has no partner, got one"),
        (np.zeros(3, np.uint8), None, "float8", "float8 has a partner, got None"),
        (
            np.zeros(257, np.uint8),
            np.zeros(1, "f4"),
            "float8",
            "scales have .* expected 2 float32 numbers, one for 256",
        ),
        (
            np.zeros(3, np.uint16),
            np.zeros(3, "f4"),
            "bfloat16_split",
            "the partner has dtype float32.* expected int16",
        ),
        (
            np.zeros(3, np.uint16),
            np.zeros(2, "f4"),
            "float16_master",
            r"the partner has .* expected float32 elements",
        ),
    ],
)
def test_arrays_that_do_not_fit(stored: Array, partner: Any, codec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_array(stored, partner, codec)
    with pytest.raises(ValueError, match=message):
        encode_array(np.zeros(stored.shape, np.float32), stored, partner, codec)


def test_values_that_do_not_fit() -> None:
    stored = np.zeros((3, 4), np.uint16)
    for values in (np.zeros((3, 4)), np.zeros(12, "f4"), np.zeros((3, 4), "f4", order="F")):
        with pytest.raises(
            ValueError, match="expected float32 elements in the order of dtype uint16"
        ):
            encode_array(values, stored, None, "float16")
    stored.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        encode_array(np.zeros((3, 4), "f4"), stored, None, "float16")
    with pytest.raises(ValueError, match="pieces of 100 elements"):
        encode_array(np.zeros(3, "f4"), *new("float8", 3), "float8", piece=100)
