"""Word2vec with negative sampling as one pass over the text on the CPU, compiled by numba.

What makes it fast, each measured on the Brown corpus. Windows and negatives are drawn inside the
loop, so that no pair is ever written down. All negatives of a window are drawn first and their rows
fetched ahead of use, since random rows miss the cache: this nearly doubles the speed. A word and
five negatives share each pass over the hidden vector. sigma is a table with linear interpolation,
within 2e-7. Loops are compiled for one width, with plain offsets that the compiler can vectorize.
Negatives shared by a whole window (Ji et al. 2016, arXiv:1604.04661) were tried and left: they took
SimLex-999 from 0.16 to 0.14.

Every example is one step of plain SGD on the exact gradient of `negative_sampling_loss`. Here
gensim differs: its CBOW leaves the 1/n of the mean of n vectors out of the gradient (Irsoy et al.
2021, arXiv:2012.15332), so that the same rate moves input vectors n times as far.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt32
from llvmlite import ir  # type: ignore[import-untyped]
from numba import float32, int32, int64, njit, types, uint64
from numba.extending import intrinsic

COMPILE = {
    "nogil": True,  # threads of one process share the vectors
    "error_model": "numpy",
    # Sums may be reordered into vector registers; NaN and infinity keep their meaning.
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
}
BLOCK = 6  # targets that share a pass over the hidden vector
HOT, TOGETHER = 128, 2000  # rows that each thread has a copy of, tokens after which it is merged
LINE = 16  # floats in a cache line
REACH = 16.0  # beyond, sigma is 0 or 1 in single precision
SIGMA = 1 / (1 + np.exp(-np.append(np.linspace(-REACH, REACH, 8193), REACH)))
SIGMA = SIGMA.astype(np.float32)


@intrinsic
@no_type_check
def fetch_line(typing_context, array, offset):
    """Ask for the cache line of array[offset] ahead of its use."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.bitcast(builder.gep(data, [args[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(prefetch, [address, i32(1), i32(3), i32(1)])  # to write, to keep, data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@njit(inline="always", **COMPILE)
@no_type_check
def fetch(array, row, width):
    """Ask for the `width` floats from array[row] on."""
    for d in range(0, width, LINE):
        fetch_line(array, int64(row) + d)
    fetch_line(array, int64(row) + width - 1)  # a row need not begin with a line


@njit(inline="always", **COMPILE)
@no_type_check
def draw(state):
    """Draw 64 random bits (xorshift64*, Vigna 2016, arXiv:1402.6246)."""
    x = state[0]
    x ^= x >> uint64(12)
    x ^= x << uint64(25)
    x ^= x >> uint64(27)
    state[0] = x
    return x * uint64(0x2545F4914F6CDD1D)


@njit(inline="always", **COMPILE)
@no_type_check
def below(bits, n):
    """Turn the upper 32 random bits into an integer in 0..n-1."""
    return ((bits >> uint64(32)) * uint64(n)) >> uint64(32)


@njit(inline="always", **COMPILE)
@no_type_check
def learn(
    input, output, words, begin, end, targets, first, rate, hidden, step, error, sigma, width, count
):
    """Take one step on -log sigma(u_o h) - sum_k log sigma(-u_k h), h the mean of words' vectors.

    `words[begin:end]` and `targets[first:]`, the word o and then the negatives k, are offsets of
    rows; targets fill up the last block with any row. A negative that is o itself has no weight.
    Returns exp(-loss) before the step.
    """
    one, wide = uint64(1), uint64(width)
    share = float32(1) / float32(end - begin)
    for d in range(wide):
        hidden[d] = float32(0)
        step[d] = float32(0)
    for m in range(begin, end):
        row = words[m]
        for d in range(wide):
            hidden[d] += share * input[row + d]

    for k in range(uint64(0), uint64(count), uint64(BLOCK)):
        j = first + k
        t0, t1, t2 = targets[j], targets[j + one], targets[j + uint64(2)]
        t3, t4, t5 = targets[j + uint64(3)], targets[j + uint64(4)], targets[j + uint64(5)]
        z0, z1, z2 = float32(0), float32(0), float32(0)
        z3, z4, z5 = float32(0), float32(0), float32(0)
        for d in range(wide):
            h = hidden[d]
            z0 += h * output[t0 + d]
            z1 += h * output[t1 + d]
            z2 += h * output[t2 + d]
            z3 += h * output[t3 + d]
            z4 += h * output[t4 + d]
            z5 += h * output[t5 + d]
        error[k], error[k + one], error[k + uint64(2)] = z0, z1, z2
        error[k + uint64(3)], error[k + uint64(4)], error[k + uint64(5)] = z3, z4, z5

    likelihood = 1.0
    for k in range(uint64(count)):
        z = error[k] if error[k] > float32(-REACH) else float32(-REACH)
        z = z if z < float32(REACH) else float32(REACH)
        place = (z + float32(REACH)) * float32((len(SIGMA) - 2) / (2 * REACH))
        entry = uint64(int32(place))
        slope = sigma[entry + one] - sigma[entry]
        p = sigma[entry] + (place - float32(int32(place))) * slope
        surprise = float32(1) - p if k == 0 else -p
        if k > 0 and targets[first + k] == targets[first]:
            surprise = float32(0)
        likelihood *= float32(1) - abs(surprise)
        error[k] = rate * surprise
    for k in range(uint64(count), uint64(len(error))):
        error[k] = float32(0)

    for k in range(uint64(0), uint64(count), uint64(BLOCK)):
        j = first + k
        t0, t1, t2 = targets[j], targets[j + one], targets[j + uint64(2)]
        t3, t4, t5 = targets[j + uint64(3)], targets[j + uint64(4)], targets[j + uint64(5)]
        e0, e1, e2 = error[k], error[k + one], error[k + uint64(2)]
        e3, e4, e5 = error[k + uint64(3)], error[k + uint64(4)], error[k + uint64(5)]
        for d in range(wide):
            near = e0 * output[t0 + d] + e1 * output[t1 + d] + e2 * output[t2 + d]
            far = e3 * output[t3 + d] + e4 * output[t4 + d] + e5 * output[t5 + d]
            step[d] += near + far
    for k in range(uint64(count)):  # one by one: a word may have been drawn twice
        row, e0 = targets[first + k], error[k]
        for d in range(wide):
            output[row + d] += e0 * hidden[d]
    for m in range(begin, end):
        row = words[m]
        for d in range(wide):
            input[row + d] += share * step[d]
    return likelihood


@intrinsic
@no_type_check
def distance(typing_context, array, other):
    """Count the floats from the beginning of one array to that of another, modulo 2^64."""

    def generate(context, builder, signature, args):
        i64 = ir.IntType(64)
        begin, end = (
            builder.ptrtoint(context.make_array(kind)(context, builder, value).data, i64)
            for kind, value in zip(signature.args, args, strict=True)
        )
        return builder.ashr(builder.sub(end, begin), ir.Constant(i64, 2))

    return types.uint64(array, other), generate


@njit(**COMPILE)
@no_type_check
def merge(table, own):
    """Add to the first rows of a table what a thread's copy has learned, and copy them anew."""
    for d in range(uint64(own.shape[1])):
        table[d] += own[0, d] - own[1, d]
        own[0, d] = own[1, d] = table[d]


@no_type_check
def scratch(width, count):
    """Make room for the hidden vector, its step and the error of each target."""
    padded = -(-count // BLOCK) * BLOCK
    return np.empty(width, np.float32), np.empty(width, np.float32), np.empty(padded, np.float32)


@lru_cache
@no_type_check
def compiled(
    width: int, negatives: int, skip_gram: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Compile the pass over a text and the single step for vectors of one width."""
    count = negatives + 1
    padded = -(-count // BLOCK) * BLOCK

    @njit(cache=True, **COMPILE)
    def read(
        input,
        output,
        text,
        bounds,
        keep,
        threshold,
        other,
        window,
        rates,
        seed,
        sigma,
        own_input,
        own_output,
    ):
        """Train on sentences; return the sum of the losses and the number of examples.

        `own_*` are this thread's copies of the first rows, and what they were when copied.
        """
        hot = uint64(len(own_input[0]))
        to_input = distance(input, own_input[0])
        to_output = distance(output, own_output[0])
        since, zero = 0, uint64(0)
        longest = 0
        for s in range(len(bounds) - 1):
            longest = max(longest, bounds[s + 1] - bounds[s])
        state = np.full(1, seed, np.uint64)
        sentence = np.empty(longest + 1, np.uint64)
        words = np.empty(2 * window, np.uint64)
        targets = np.empty(2 * window * padded, np.uint64)
        hidden, step = np.empty(width, np.float32), np.empty(width, np.float32)
        error = np.empty(padded, np.float32)
        loss, examples = 0.0, 0
        for s in range(len(bounds) - 1):
            done = (bounds[s] - bounds[0]) / max(1, bounds[-1] - bounds[0])
            rate = float32(rates[0] + (rates[1] - rates[0]) * done)
            length = 0
            for i in range(bounds[s], bounds[s + 1]):
                sentence[length] = uint64(text[i]) * uint64(width)
                length += keep[text[i]] >= draw(state) >> uint64(32)
            since += length
            if hot > uint64(0) and since > TOGETHER:
                merge(input, own_input)
                merge(output, own_output)
                since = 0
            for i in range(length):
                if i + 1 < length:  # the word to come, and the one to enter its window
                    fetch(output, sentence[i + 1], width)
                    fetch(input, sentence[min(length - 1, i + 1 + window)], width)
                reach = 1 + int64(below(draw(state), window))
                around = 0
                for j in range(max(0, i - reach), min(length, i + reach + 1)):
                    if j != i:
                        words[around] = sentence[j] + (to_input if sentence[j] < hot else zero)
                        around += 1
                steps = around if skip_gram else min(around, 1)
                for m in range(uint64(steps)):
                    first = m * uint64(padded)
                    targets[first] = sentence[i] + (to_output if sentence[i] < hot else zero)
                    for k in range(first + uint64(1), first + uint64(count)):
                        bits = draw(state)
                        word = below(bits, len(other))
                        # Both outcomes are loaded, since a branch could not be predicted.
                        instead = uint64(other[word])
                        kept = bits & uint64(0xFFFFFFFF) < threshold[word]
                        row = (word if kept else instead) * uint64(width)
                        targets[k] = row + (to_output if row < hot else zero)
                        fetch(output, targets[k], width)
                    for k in range(first + uint64(count), first + uint64(padded)):
                        targets[k] = targets[first]
                for m in range(uint64(steps)):
                    begin = m if skip_gram else uint64(0)
                    end = m + uint64(1) if skip_gram else uint64(around)
                    likelihood = learn(
                        input,
                        output,
                        words,
                        begin,
                        end,
                        targets,
                        m * uint64(padded),
                        rate,
                        hidden,
                        step,
                        error,
                        sigma,
                        width,
                        count,
                    )
                    loss -= np.log(likelihood)
                examples += steps
        if hot > uint64(0):
            merge(input, own_input)
            merge(output, own_output)
        return loss, examples

    @njit(cache=True, **COMPILE)
    def one(input, output, words, targets, rate, hidden, step, error, sigma):
        """Take a single step; return its loss."""
        rows = np.full(padded, targets[0] * width, np.uint64)
        for k in range(count):
            rows[k] = targets[k] * width
        begin, end, rate = uint64(0), uint64(len(words)), float32(rate)
        columns = words * width
        likelihood = learn(
            input,
            output,
            columns.astype(np.uint64),
            begin,
            end,
            rows,
            begin,
            rate,
            hidden,
            step,
            error,
            sigma,
            width,
            count,
        )
        return -np.log(likelihood)

    return read, one


def train_step(
    input: Float32[np.ndarray, "vocabulary width"],
    output: Float32[np.ndarray, "vocabulary width"],
    words: Int64[np.ndarray, " context"],
    targets: Int64[np.ndarray, " targets"],
    rate: float,
) -> float:
    """Take one step in place on a single example, `targets[0]` being the word to predict.

    Returns the loss in nats before the step.
    """
    width, count = input.shape[1], len(targets)
    _, one = compiled(width, count - 1, len(words) == 1)
    vectors = (input.reshape(-1), output.reshape(-1))
    return one(*vectors, words, targets, rate, *scratch(width, count), SIGMA)


def train_pass(
    input: Float32[np.ndarray, "vocabulary width"],
    output: Float32[np.ndarray, "vocabulary width"],
    text: Int32[np.ndarray, " tokens"],
    bounds: Int64[np.ndarray, " bounds"],
    keep: UInt32[np.ndarray, " vocabulary"],
    alias: tuple[UInt32[np.ndarray, " vocabulary"], Int32[np.ndarray, " vocabulary"]],
    *,
    negatives: int,
    window: int,
    skip_gram: bool,
    rates: tuple[float, float],
    seeds: list[int],
) -> tuple[float, int]:
    """Train in place on sentences text[bounds[s]:bounds[s + 1]]; return (loss in nats, examples).

    The loss is the sum over the examples, each before its step. `keep` is the chance that a token
    is kept (in 2^-32), `alias` draws negatives, `rates` are the learning rates at the start and the
    end. Each of the `seeds` is a thread on its share of the sentences. With one, equal arguments
    give equal bits; several write without locks (Hogwild, Recht et al. 2011, arXiv:1106.5730), and
    the order of their steps is the machine's. The first rows, which should be those of the most
    frequent words, each thread learns in a copy of its own and merges from time to time: cores that
    write to the same few rows wait for each other.
    """
    width = input.shape[1]
    read, _ = compiled(width, negatives, skip_gram)
    vectors = (input.reshape(-1), output.reshape(-1))
    shares = np.linspace(bounds[0], bounds[-1], len(seeds) + 1)
    cuts = np.searchsorted(bounds, shares)
    cuts[-1] = len(bounds) - 1

    hot = 0 if len(seeds) == 1 else min(HOT, len(input)) * width

    def one(thread: int) -> tuple[float, int]:
        own = bounds[cuts[thread] : cuts[thread + 1] + 1]
        seed = np.uint64(int(seeds[thread]) % (2**64 - 1) + 1)  # xorshift must not start from 0
        how = (window, rates, seed, SIGMA)
        copies = [np.stack([table[:hot], table[:hot]]) for table in vectors]
        return read(*vectors, text, own, keep, *alias, *how, *copies)

    if len(seeds) == 1:
        return one(0)
    with ThreadPoolExecutor(len(seeds)) as pool:
        results = list(pool.map(one, range(len(seeds))))
    return sum(loss for loss, _ in results), sum(examples for _, examples in results)
