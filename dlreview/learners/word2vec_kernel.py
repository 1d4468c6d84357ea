"""Word2vec with negative sampling as one pass over the text on the CPU, compiled by numba.

Five decisions make it fast, all measured on the Brown corpus. Windows and negatives are drawn
inside the loop, so that pairs are never stored. All negatives of a window are drawn first and their
rows fetched early, since random rows miss the cache: this nearly doubles the speed. A word and five
negatives share each pass over the hidden vector. sigma is a table with linear interpolation, exact
to 2e-7. Loops are compiled for one width, with plain offsets that the compiler can vectorize.
Negatives shared by a whole window (Ji et al. 2016, arXiv:1604.04661) were tried and rejected: they
lowered SimLex-999 from 0.16 to 0.14.

Every example is one step of plain SGD on the exact gradient of `negative_sampling_loss`. gensim
differs: its CBOW omits the factor 1/n of the mean of n vectors from the gradient (Irsoy et al.
2021, arXiv:2012.15332), so that with the same rate input vectors move n times as far.
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
HOT = 128  # rows, those of the most frequent words, of which each thread has a copy
MERGE_AFTER = 2000  # tokens after which a thread merges its copy with the table
LINE = 16  # floats in a cache line
REACH = 16.0  # beyond +-REACH sigma is 0 or 1 in single precision
SIGMA = 1 / (1 + np.exp(-np.append(np.linspace(-REACH, REACH, 8193), REACH)))
SIGMA = SIGMA.astype(np.float32)


@intrinsic
@no_type_check
def fetch_line(typing_context, array, offset):
    """Request the cache line of array[offset] before its use."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.bitcast(builder.gep(data, [args[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(prefetch, [address, i32(1), i32(3), i32(1)])  # to write, keep, data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@njit(inline="always", **COMPILE)
@no_type_check
def fetch(array, row, width):
    """Request the `width` floats that begin at array[row]."""
    for d in range(0, width, LINE):
        fetch_line(array, int64(row) + d)
    fetch_line(array, int64(row) + width - 1)  # a row may begin inside a line


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
def average(input, words, begin, end, hidden, width):
    """Add the mean of the input vectors of words[begin:end] to `hidden`; return 1 / number."""
    wide, share = uint64(width), float32(1) / float32(end - begin)
    for m in range(begin, end):
        row = words[m]
        for d in range(wide):
            hidden[d] += share * input[row + d]
    return share


@njit(inline="always", **COMPILE)
@no_type_check
def score(output, targets, first, hidden, scores, width, count):
    """Compute the products of `hidden` with the output vectors of the targets, block by block."""
    one, wide = uint64(1), uint64(width)
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
        scores[k], scores[k + one], scores[k + uint64(2)] = z0, z1, z2
        scores[k + uint64(3)], scores[k + uint64(4)], scores[k + uint64(5)] = z3, z4, z5


@njit(inline="always", **COMPILE)
@no_type_check
def scores_to_errors(error, targets, first, rate, sigma, count):
    """Replace scores by `rate` times -d loss / d score; return exp(-loss)."""
    likelihood = 1.0
    for k in range(uint64(count)):
        z = error[k] if error[k] > float32(-REACH) else float32(-REACH)
        z = z if z < float32(REACH) else float32(REACH)
        place = (z + float32(REACH)) * float32((len(SIGMA) - 2) / (2 * REACH))
        entry = uint64(int32(place))
        slope = sigma[entry + uint64(1)] - sigma[entry]
        p = sigma[entry] + (place - float32(int32(place))) * slope
        surprise = float32(1) - p if k == 0 else -p
        if k > 0 and targets[first + k] == targets[first]:
            surprise = float32(0)
        likelihood *= float32(1) - abs(surprise)
        error[k] = rate * surprise
    for k in range(uint64(count), uint64(len(error))):
        error[k] = float32(0)
    return likelihood


@njit(inline="always", **COMPILE)
@no_type_check
def hidden_step(output, targets, first, error, step, width, count):
    """Add the sum of the targets' output vectors, weighted by their errors, to `step`."""
    one, wide = uint64(1), uint64(width)
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


@njit(inline="always", **COMPILE)
@no_type_check
def learn(input, output, words, begin, end, targets, first, rate, buffers, sigma, width, count):
    """Take one step on -log sigma(u_o h) - sum_k log sigma(-u_k h), h the mean of words' vectors.

    `words[begin:end]` and `targets[first:]`, the word o and then the negatives k, are offsets of
    rows; the last block is filled with any row. A negative that is o itself has no weight.
    Returns exp(-loss) before the step.
    """
    hidden, step, error = buffers
    wide = uint64(width)
    for d in range(wide):
        hidden[d] = float32(0)
        step[d] = float32(0)
    share = average(input, words, begin, end, hidden, width)
    score(output, targets, first, hidden, error, width, count)
    likelihood = scores_to_errors(error, targets, first, rate, sigma, count)
    hidden_step(output, targets, first, error, step, width, count)
    for k in range(uint64(count)):  # one after the other: a word may have been drawn twice
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
    """Return the number of floats from the start of one array to that of another, modulo 2^64."""

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
def merge(table, copy):
    """Add the changes of a thread's copy to the first rows of a table, and copy these again.

    copy[0] are the current values, copy[1] those at the last merge.
    """
    for d in range(uint64(copy.shape[1])):
        table[d] += copy[0, d] - copy[1, d]
        copy[0, d] = copy[1, d] = table[d]


@njit(inline="always", **COMPILE)
@no_type_check
def allocate(width, count):
    """Allocate the hidden vector, its step, and the errors of all targets in whole blocks."""
    padded = -(-count // BLOCK) * BLOCK
    return np.empty(width, np.float32), np.empty(width, np.float32), np.empty(padded, np.float32)


@njit(inline="always", **COMPILE)
@no_type_check
def drop_frequent(text, begin, end, keep, state, sentence, width):
    """Write the row offsets of the kept words of text[begin:end]; return their number."""
    length = 0
    for i in range(begin, end):
        sentence[length] = uint64(text[i]) * uint64(width)
        length += keep[text[i]] >= draw(state) >> uint64(32)
    return length


@njit(inline="always", **COMPILE)
@no_type_check
def find_context(sentence, length, i, window, state, words, hot, to_copy):
    """Draw a reach in 1..window and write the words around word i; return their number."""
    reach = 1 + int64(below(draw(state), window))
    around = 0
    for j in range(max(0, i - reach), min(length, i + reach + 1)):
        if j != i:
            words[around] = sentence[j] + (to_copy if sentence[j] < hot else uint64(0))
            around += 1
    return around


@njit(inline="always", **COMPILE)
@no_type_check
def draw_targets(output, word, alias, state, targets, first, hot, to_copy, width, count):
    """Write a word, its negatives and the filling of the last block; fetch the negatives' rows."""
    threshold, other = alias
    zero, padded = uint64(0), uint64(-(-count // BLOCK) * BLOCK)
    targets[first] = word + (to_copy if word < hot else zero)
    for k in range(first + uint64(1), first + uint64(count)):
        bits = draw(state)
        cell = below(bits, len(other))
        # Load both outcomes: the processor cannot predict a random branch.
        instead = uint64(other[cell])
        kept = bits & uint64(0xFFFFFFFF) < threshold[cell]
        row = (cell if kept else instead) * uint64(width)
        targets[k] = row + (to_copy if row < hot else zero)
        fetch(output, targets[k], width)
    for k in range(first + uint64(count), first + padded):
        targets[k] = targets[first]


@njit(**COMPILE)
@no_type_check
def longest_sentence(bounds):
    """Return the largest number of tokens between two bounds."""
    longest = 0
    for s in range(len(bounds) - 1):
        longest = max(longest, bounds[s + 1] - bounds[s])
    return longest


@njit(inline="always", **COMPILE)
@no_type_check
def read_text(  # more than 40 lines: a function for the inner loop made it 2 to 10 % slower
    input, output, text, bounds, keep, alias, window, rates, seed, sigma, copies, width, count,
    pairs,
):  # fmt: skip
    """Train on sentences; return the sum of the losses and the number of examples.

    `copies` are this thread's copies of the first rows of both tables, each with the values at the
    time of copying. With `pairs` (skip-gram) every context word is an example, without (CBOW) their
    mean is.
    """
    own_input, own_output = copies
    hot, padded = uint64(len(own_input[0])), uint64(-(-count // BLOCK) * BLOCK)
    to_input, to_output = distance(input, own_input[0]), distance(output, own_output[0])
    state, sentence = np.full(1, seed, np.uint64), np.empty(longest_sentence(bounds) + 1, np.uint64)
    words = np.empty(2 * window, np.uint64)
    targets = np.empty(2 * window * int64(padded), np.uint64)
    buffers = allocate(width, count)
    since, loss, examples = 0, 0.0, 0
    for s in range(len(bounds) - 1):
        done = (bounds[s] - bounds[0]) / max(1, bounds[-1] - bounds[0])
        rate = float32(rates[0] + (rates[1] - rates[0]) * done)
        length = drop_frequent(text, bounds[s], bounds[s + 1], keep, state, sentence, width)
        since += length
        if hot > uint64(0) and since > MERGE_AFTER:
            merge(input, own_input)
            merge(output, own_output)
            since = 0
        for i in range(length):
            if i + 1 < length:  # the next word, and the one that enters its window
                fetch(output, sentence[i + 1], width)
                fetch(input, sentence[min(length - 1, i + 1 + window)], width)
            around = find_context(sentence, length, i, window, state, words, hot, to_input)
            steps = around if pairs else min(around, 1)
            for m in range(uint64(steps)):
                draw_targets(
                    output, sentence[i], alias, state, targets, m * padded, hot, to_output, width,
                    count,
                )  # fmt: skip
            for m in range(uint64(steps)):
                begin = m if pairs else uint64(0)
                end = m + uint64(1) if pairs else uint64(around)
                likelihood = learn(
                    input, output, words, begin, end, targets, m * padded, rate, buffers, sigma,
                    width, count,
                )  # fmt: skip
                loss -= np.log(likelihood)
            examples += steps
    if hot > uint64(0):
        merge(input, own_input)
        merge(output, own_output)
    return loss, examples


@njit(inline="always", **COMPILE)
@no_type_check
def take_step(input, output, words, targets, rate, sigma, width, count):
    """Take a single step; return its loss."""
    rows = np.full(-(-count // BLOCK) * BLOCK, targets[0] * width, np.uint64)
    for k in range(count):
        rows[k] = targets[k] * width
    columns = (words * width).astype(np.uint64)
    begin, end = uint64(0), uint64(len(words))
    buffers = allocate(width, count)
    likelihood = learn(
        input, output, columns, begin, end, rows, begin, float32(rate), buffers, sigma, width, count
    )
    return -np.log(likelihood)


@lru_cache
@no_type_check
def compiled(
    width: int, negatives: int, skip_gram: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Compile `read_text` and `take_step` for vectors of one width."""
    count = negatives + 1

    @njit(cache=True, **COMPILE)
    def read(input, output, text, bounds, keep, alias, window, rates, seed, sigma, copies):
        return read_text(
            input, output, text, bounds, keep, alias, window, rates, seed, sigma, copies,
            width, count, skip_gram,
        )  # fmt: skip

    @njit(cache=True, **COMPILE)
    def one(input, output, words, targets, rate, sigma):
        return take_step(input, output, words, targets, rate, sigma, width, count)

    return read, one


def train_step(
    input: Float32[np.ndarray, "vocabulary width"],
    output: Float32[np.ndarray, "vocabulary width"],
    words: Int64[np.ndarray, " context"],
    targets: Int64[np.ndarray, " targets"],
    rate: float,
) -> float:
    """Take one step in place on a single example; `targets[0]` is the word to predict.

    Returns the loss in nats before the step.
    """
    width, count = input.shape[1], len(targets)
    _, one = compiled(width, count - 1, len(words) == 1)
    vectors = (input.reshape(-1), output.reshape(-1))
    return one(*vectors, words, targets, rate, SIGMA)


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

    The loss is the sum over the examples, each before its step. `keep` is the probability to keep a
    token (in 2^-32), `alias` the table from which negatives are drawn, `rates` are the learning
    rates at the start and the end. There is one thread for each of the `seeds`, with its share of
    the sentences. One thread gives equal bits for equal arguments; several write without locks
    (Hogwild, Recht et al. 2011, arXiv:1106.5730), in an order that varies. Each thread has a copy
    of the first rows, which should be those of the most frequent words, and merges it regularly:
    cores that write to the same few rows wait for each other.
    """
    width = input.shape[1]
    read, _ = compiled(width, negatives, skip_gram)
    vectors = (input.reshape(-1), output.reshape(-1))
    shares = np.linspace(bounds[0], bounds[-1], len(seeds) + 1)
    cuts = np.searchsorted(bounds, shares)
    cuts[-1] = len(bounds) - 1

    hot = 0 if len(seeds) == 1 else min(HOT, len(input)) * width

    def train(thread: int) -> tuple[float, int]:
        share = bounds[cuts[thread] : cuts[thread + 1] + 1]
        seed = np.uint64(int(seeds[thread]) % (2**64 - 1) + 1)  # xorshift must not start from 0
        copies = tuple(np.stack([table[:hot], table[:hot]]) for table in vectors)
        return read(*vectors, text, share, keep, alias, window, rates, seed, SIGMA, copies)

    if len(seeds) == 1:
        return train(0)
    with ThreadPoolExecutor(len(seeds)) as pool:
        results = list(pool.map(train, range(len(seeds))))
    return sum(loss for loss, _ in results), sum(examples for _, examples in results)
