import pytest
import torch

from dlreview.nn.cache import Cache, LayerCache


def heads(tokens, rows=2):
    return torch.randn(rows, 3, tokens, 4)


def test_keys_and_values_are_kept_in_order():
    cache, keys, values = (
        LayerCache(7),
        [heads(2), heads(4), heads(1)],
        [heads(2), heads(4), heads(1)],
    )
    for k, v in zip(keys, values, strict=True):
        all_k, all_v = cache.append(k, v)
    assert torch.equal(all_k, torch.cat(keys, 2)) and torch.equal(all_v, torch.cat(values, 2))


def test_no_step_copies_what_earlier_steps_wrote():
    cache = LayerCache(5)
    first, _ = cache.append(heads(3), heads(3))
    later, _ = cache.append(heads(1), heads(1))
    assert later.data_ptr() == first.data_ptr()


@pytest.mark.parametrize("rows", [[1, 1], [0], [1, 0, 0]])
def test_rows_follow_their_texts(rows):
    cache = Cache(1, 4)
    k, v = cache.layers[0].append(heads(2), heads(2))
    k, v = k.clone(), v.clone()
    context = heads(5), heads(5), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    cache.layers[0].context = context
    cache.extend_mask(torch.tensor([[0, 1], [1, 1]]), 2, 2, k.device)
    mask = cache.mask
    cache.reorder(torch.tensor(rows))
    new = heads(1, len(rows))
    after = cache.layers[0].append(new, new)
    assert torch.equal(after[0], torch.cat([k[rows], new], 2))
    assert torch.equal(after[1], torch.cat([v[rows], new], 2))
    assert all(
        torch.equal(a, b[rows]) for a, b in zip(cache.layers[0].context, context, strict=True)
    )
    assert torch.equal(cache.mask, mask[rows])


def test_the_mask_of_later_tokens_joins_that_of_earlier_ones():
    cache = Cache(1, 4)
    assert cache.extend_mask(None, 2, 1, torch.device("cpu")) is None
    cache.layers[0].append(heads(1), heads(1))
    mask = cache.extend_mask(torch.tensor([[0], [1]]), 2, 1, torch.device("cpu"))
    assert mask.tolist() == [[True, False], [True, True]]


def test_a_mask_may_be_known_before_its_tokens_are_read():
    cache, device = Cache(1, 5), torch.device("cpu")
    cache.mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    for read, expected in ((1, [[0], [1]]), (1, [[0, 1], [1, 1]]), (3, [[0, *[1] * 4], [1] * 5])):
        assert cache.extend_mask(None, 2, read, device).tolist() == expected
        cache.layers[0].append(heads(read), heads(read))
    with pytest.raises(ValueError, match="mask of cache must have 3 rows, got 2"):
        cache.extend_mask(None, 3, 1, device)
    cache = Cache(1, 5)
    cache.mask = torch.ones(2, 3)
    with pytest.raises(ValueError, match="mask must be None: the cache knows"):
        cache.extend_mask(torch.ones(2, 1), 2, 1, device)


def test_a_full_cache_is_told_and_stays_as_it_was():
    cache = LayerCache(2)
    with pytest.raises(ValueError, match="capacity of cache is 2, got 3 tokens"):
        cache.append(heads(3), heads(3))
    assert cache.length == 0
    with pytest.raises(ValueError, match="capacity must be at least 1, got 0"):
        Cache(1, 0)
