"""test_awq.py - awq.py against definitions in NumPy, and what it says to arrays it cannot take."""
import mmap
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import awq  # noqa: E402

TOKENS, IN, OUT = 80, 320, 48           # two groups and a half
QUANT = awq.Quant(bits=4, group_size=128)


def make_case():
    rng = np.random.default_rng(1)
    size = np.exp(rng.normal(size=IN))
    x = (rng.normal(size=(TOKENS, IN)) * size).astype(np.float32)
    return x, rng.normal(size=(OUT, IN)).astype(np.float32)


class Numbers(unittest.TestCase):
    def setUp(self):
        self.x, self.w = make_case()
        self.stats = awq.Stats(IN, gram=True)
        self.stats.add(self.x)
        self.known = awq.inputs(self.stats, rows=self.x)

    def test_statistics(self):
        x = np.abs(self.x.astype(np.float64))
        for statistic, value in ((awq.ABS_MAX, x.max(axis=0)), (awq.ABS_MEAN, x.mean(axis=0)),
                                 (awq.SQ_MEAN, np.square(x).mean(axis=0))):
            np.testing.assert_allclose(self.stats.get(statistic), value, rtol=1e-6)

    def test_shards_merge(self):
        shards = awq.Stats(IN, gram=True), awq.Stats(IN, gram=True)
        shards[0].add(self.x[:30])
        shards[1].add(self.x[30:].astype(np.float16).astype(np.float32))
        shards[0].merge(shards[1])
        self.assertEqual(shards[0].struct.count, TOKENS)
        np.testing.assert_allclose(shards[0].get(awq.ABS_MEAN), self.stats.get(awq.ABS_MEAN),
                                   rtol=1e-3)

    def test_token_weights(self):
        weight = np.zeros(TOKENS, np.float32)
        weight[3] = 2
        stats = awq.Stats(IN)
        stats.add(self.x, token_weight=weight)
        np.testing.assert_allclose(stats.get(awq.ABS_MEAN), np.abs(self.x[3]), rtol=1e-6)

    def test_search_is_a_loop_over_ratios(self):
        found = awq.search(self.known, [self.w], QUANT, awq.PRESET_AUTOAWQ)
        size, v = self.stats.get(awq.ABS_MEAN), awq.weight_stat([self.w], QUANT.group_size)
        for i, loss in enumerate(found.curve):
            s = awq.scale_at(awq.SCALE_DUO, i / len(found.curve), size, v)
            d = (awq.fake_quantize(self.w, QUANT, s) - self.w).astype(np.float64)
            self.assertAlmostEqual(loss / np.square(self.x @ d.T).mean(), 1, places=2)
        self.assertEqual(found.index, found.curve.argmin())
        self.assertLess(found.loss, found.identity_loss)
        np.testing.assert_array_equal(
            found.scale, awq.scale_at(awq.SCALE_DUO, found.ratio, size, v))

    def test_gram_needs_no_rows(self):
        by_gram = awq.search(awq.inputs(self.stats, loss=awq.LOSS_GRAM), [self.w], QUANT)
        by_rows = awq.search(self.known, [self.w], QUANT)
        np.testing.assert_allclose(by_gram.curve, by_rows.curve, rtol=1e-2)

    def test_threads_change_nothing(self):
        threads = awq.Threads(3)
        one, three = (awq.search(self.known, [self.w, -self.w], QUANT, threads=t)
                      for t in (None, threads))
        np.testing.assert_array_equal(one.curve, three.curve)
        np.testing.assert_array_equal(awq.clip(self.known, self.w, QUANT, one.scale),
                                      awq.clip(self.known, self.w, QUANT, one.scale, threads))

    def test_output_error(self):
        d = awq.fake_quantize(self.w, QUANT) - self.w
        self.assertAlmostEqual(awq.output_error(self.known, self.w, self.w + d)
                               / np.square(self.x @ d.T).mean(), 1, places=4)
        self.assertAlmostEqual(awq.output_error(self.known, self.w)
                               / np.square(self.x @ self.w.T).mean(), 1, places=4)

    def test_linear_is_the_fake_quantized_one(self):
        s = awq.search(self.known, [self.w], QUANT).scale
        clip_max = awq.clip(self.known, self.w, QUANT, s)
        linear = awq.Linear.quantize(self.w, QUANT, s, clip_max)
        stored, bias = linear.dequantize(s), np.arange(OUT, dtype=np.float32)
        np.testing.assert_array_equal(stored, awq.fake_quantize(self.w, QUANT, s, clip_max))
        exact = self.x.astype(np.float64) @ stored.T.astype(np.float64) + bias
        for precision, bound in ((awq.A16, 2e-4), (awq.A8, 4e-2)):
            y = linear(self.x, input_scale=s, bias=bias, precision=precision)
            self.assertLess(np.linalg.norm(y - exact) / np.linalg.norm(exact - bias), bound)
        folded = linear(np.ascontiguousarray(self.x / s))
        np.testing.assert_allclose(folded + bias, exact, atol=1e-3 * np.abs(exact).max())

    def test_views_are_read_where_they_lie(self):
        wide = np.zeros((OUT, IN + 7), np.float32)
        wide[:, :IN] = self.w
        linear = awq.Linear.quantize(self.w, QUANT)
        np.testing.assert_array_equal(awq.Linear.quantize(wide[:, :IN], QUANT).data, linear.data)
        np.testing.assert_array_equal(linear(self.x[5:6]), linear(self.x)[5:6])
        self.assertEqual(linear(self.x[:0]).shape, (0, OUT))
        half = self.w.astype(np.float16)
        np.testing.assert_array_equal(awq.Linear.quantize(half, QUANT).data,
                                      awq.Linear.quantize(half.astype(np.float32), QUANT).data)

    def test_bytes_come_back_from_a_file(self):
        linear = awq.Linear.quantize(self.w, QUANT)
        with tempfile.TemporaryFile() as file:
            file.write(linear.data)
            file.flush()
            mapped = awq.Linear(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            np.testing.assert_array_equal(mapped(self.x), linear(self.x))
            del mapped

    def test_norm_takes_the_scale(self):
        s = np.linspace(0.5, 2, IN, dtype=np.float32)
        weight, bias = np.ones(IN, np.float32), np.full(IN, 3, np.float16)
        awq.fold_norm(s, weight, bias)
        np.testing.assert_array_equal(weight, 1 / s)
        np.testing.assert_array_equal(bias, (3 / s).astype(np.float16))
        awq.fold_norm(s, weight, direction=awq.UNFOLD)
        np.testing.assert_allclose(weight, 1, rtol=1e-6)


class Refusals(unittest.TestCase):
    def setUp(self):
        self.x, self.w = make_case()
        self.linear = awq.Linear.quantize(self.w, QUANT)

    def refused(self, kind, words, function, *arguments, **options):
        with self.assertRaisesRegex(kind, words):
            function(*arguments, **options)

    def test_arrays(self):
        call, x = self.linear, self.x
        self.refused(TypeError, "^x: expected a NumPy array, got list", call, x.tolist())
        self.refused(TypeError, "^x: expected dtype float32 or .*, got float64", call,
                     x.astype(np.float64))
        self.refused(TypeError, "^x: .*, got >f4", call, x.astype(">f4"))
        self.refused(ValueError, r"^x: expected shape \(tokens, 320\), got \(80, 319\)", call,
                     x[:, 1:])
        self.refused(ValueError, r"^x: expected shape .*, got \(320,\)", call, x[0])
        self.refused(ValueError, "^x: its elements do not lie side by side", call,
                     np.repeat(x, 2, axis=1)[:, ::2])
        self.refused(ValueError, "^x: its elements .*ascontiguousarray", call,
                     np.asfortranarray(x))
        self.refused(ValueError, "^x: its rows do not follow one another", call, x[::-1])
        self.refused(ValueError, "^x: its rows", call, np.broadcast_to(x[:1], x.shape))
        self.refused(ValueError, r"^bias: expected shape \(48\)", call, x, bias=x[0])
        self.refused(TypeError, "^input_scale: expected dtype float32, got float16", call, x,
                     input_scale=np.ones(IN, np.float16))

    def test_read_only(self):
        weight = np.ones(IN, np.float32)
        weight.flags.writeable = False
        self.refused(ValueError, "^weight: is read-only", awq.fold_norm, weight.copy(), weight)

    def test_the_librarys_own_sentence(self):
        self.refused(awq.Error, "^awq_packed_init: an option has no such value .bits",
                     awq.Linear.quantize, self.w, awq.Quant(bits=5))
        self.refused(awq.Error, "^awq_stats_init: shapes do not agree", awq.Stats, 0)
        self.refused(awq.Error, "^awq_packed_open: not a packed tensor", awq.Linear, b"hello" * 99)
        self.refused(awq.Error, "^awq_search: ", awq.search, awq.inputs(awq.Stats(IN)), [self.w],
                     QUANT)

    def test_damaged_payload(self):
        data = self.linear.data.copy()
        data[self.linear.packed.scales_offset:][:2] = 0
        self.refused(awq.Error, "^awq_packed_check: .*truncated or corrupt", awq.Linear, data)

    def test_the_element_to_blame(self):
        self.x[3, 7] = np.nan
        self.refused(awq.Error, "NaN.*row 3, column 7", awq.Stats(IN).add, self.x)
        self.refused(awq.Error, "^awq_prepare: .*row 3, column 7", self.linear, self.x)
        self.w[2, 1] = 1e30
        with self.assertRaises(awq.Error) as caught:
            awq.Linear.quantize(self.w, QUANT)
        self.assertEqual((caught.exception.where.row, caught.exception.status), (2, -8))


if __name__ == "__main__":
    unittest.main()
