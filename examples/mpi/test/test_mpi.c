/*  test_mpi.c FOLDER - the parts of examples/mpi on a small random model, by as many ranks as mpirun
    starts. Every rank checks; the first failure ends the job. */
#include "deal.h"
#include "quantize_team.h"
#include "run_team.h"

#include "../../llm/export.h"
#include "../../llm/test/tiny.h"

#include <math.h>

static team t;
static failure why;

static void require(bool condition, const char *what, int line)
{
    failure failed;

    if (condition) return;
    fail(&failed, "test_mpi.c:%d: %s; %s", line, what, why.text);
    team_abort(&t, &failed);
}

#define REQUIRE(condition) require(condition, #condition, __LINE__)

/* ---- dealing ---------------------------------------------------------------------------------- */

static uint64_t random_state = 20240607;

static size_t random_below(size_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(random_state >> 33) % n;
}

static void items_have_one_owner_and_loads_are_even(void)
{
    enum { ITEMS = 40 };
    size_t costs[ITEMS], owner[ITEMS], load[8], check[8], ranks, i, trial;

    for (trial = 0; trial < 50; trial++) {
        size_t sum = 0, most = 0, longest = 0;
        ranks = 1 + random_below(8);
        memset(check, 0, sizeof check);
        for (i = 0; i < ITEMS; i++) costs[i] = 1 + random_below(1000);
        deal_items(costs, ITEMS, ranks, owner, load);
        for (i = 0; i < ITEMS; i++) {
            REQUIRE(owner[i] < ranks);
            check[owner[i]] += costs[i];
            sum += costs[i];
            if (costs[i] > longest) longest = costs[i];
        }
        for (i = 0; i < ranks; i++) {
            REQUIRE(check[i] == load[i]);
            if (load[i] > most) most = load[i];
        }
        REQUIRE(most <= sum / ranks + longest);
    }
}

/*  Linears side by side: every row is one rank's, and no rank has more than its share and half a step
    at each end. */
static void rows_are_dealt_once_and_evenly(void)
{
    enum { LINES = 5 };
    size_t rows[LINES], cost[LINES], trial, i, r;

    for (trial = 0; trial < 100; trial++) {
        size_t ranks = 1 + random_below(9), total = 0, start = 0, load[9] = { 0 }, dearest = 0;
        for (i = 0; i < LINES; i++) {
            rows[i] = 1 + random_below(300);
            cost[i] = 1 + random_below(100);
            total += rows[i] * cost[i];
            if (cost[i] > dearest) dearest = cost[i];
        }
        for (i = 0; i < LINES; start += rows[i] * cost[i], i++) {
            size_t next = 0;
            for (r = 0; r < ranks; r++) {
                range mine = deal_rows(total, ranks, r, start, rows[i], cost[i]);
                if (mine.begin == mine.end) continue;
                REQUIRE(mine.begin == next && mine.begin % AWQ_ROW_STEP == 0);
                next = mine.end;
                load[r] += (mine.end - mine.begin) * cost[i];
            }
            REQUIRE(next == rows[i]);
        }
        for (r = 0; r < ranks; r++)
            REQUIRE(load[r] <= total / ranks + 1 + dearest * AWQ_ROW_STEP);
    }
}

static void heads_go_with_the_kv_heads_they_read(void)
{
    size_t kv_heads, repeat, ranks, r, head;

    for (kv_heads = 1; kv_heads <= 6; kv_heads++)
        for (repeat = 1; repeat <= 4; repeat++)
            for (ranks = 1; ranks <= kv_heads * repeat; ranks++) {
                size_t next = 0;
                for (r = 0; r < ranks; r++) {
                    range heads, kv;
                    deal_heads(kv_heads * repeat, kv_heads, ranks, r, &heads, &kv);
                    REQUIRE(heads.begin == next && heads.end > heads.begin);
                    REQUIRE((heads.end - heads.begin) % (kv.end - kv.begin) == 0);
                    for (head = heads.begin; head < heads.end; head++) {
                        size_t mine = (heads.end - heads.begin) / (kv.end - kv.begin);
                        REQUIRE(kv.begin + (head - heads.begin) / mine == head / repeat);
                    }
                    next = heads.end;
                }
                REQUIRE(next == kv_heads * repeat);
            }
}

static void cut_groups_lie_inside_whole_ones(void)
{
    size_t trial, k;

    for (trial = 0; trial < 1000; trial++) {
        size_t in = 1 + random_below(600), begin = random_below(in);
        int size = random_below(8) ? (int)(1 + random_below(200)) : -1, part;
        size_t whole = size < 0 ? in : (size_t)size, group;
        part = cut_group_size(size, in, begin);
        group = part < 0 ? in : (size_t)part;
        REQUIRE(begin % whole != 0 || part == size);
        for (k = begin; k < in; k++)
            REQUIRE((begin + (k - begin) / group * group) / whole == k / whole);
    }
}

/* ---- sums ------------------------------------------------------------------------------------- */

static float addend(size_t part, size_t i)
{
    uint64_t h = (part * 1000003 + i + 1) * 0x9e3779b97f4a7c15u;
    return (float)(int64_t)(h ^ h >> 29) * 1e-12f;
}

/*  Whatever the number of ranks, parts 0, 1, 2 ... are added in this order. */
static void sums_have_the_order_of_their_parts(void)
{
    enum { COUNT = (1 << 20) + 77, PARTS = 6 };
    float *mine = malloc(COUNT * sizeof *mine), *total = calloc(COUNT, sizeof *total), sum;
    double one = 0, all = 0;
    size_t round, part, i;

    REQUIRE(mine && total);
    for (round = 0; round < PARTS; round += t.ranks) {
        size_t left = PARTS - round;
        part = round + t.rank;
        for (i = 0; i < COUNT; i++) mine[i] = part < PARTS ? addend(part, i) : 1e30f;
        one = part < PARTS ? (double)addend(part, 0) : 1e30;
        team_add(&t, FLOATS, mine, left < t.ranks ? left : t.ranks, total, COUNT);
        team_add(&t, DOUBLES, &one, left < t.ranks ? left : t.ranks, &all, 1);
    }
    team_complete(&t, FLOATS, total, COUNT);
    team_complete(&t, DOUBLES, &all, 1);
    for (i = 0; i < COUNT; i++) {
        for (part = 0, sum = 0; part < PARTS; part++) sum += addend(part, i);
        REQUIRE(memcmp(&sum, &total[i], sizeof sum) == 0);
    }
    for (part = 0, one = 0; part < PARTS; part++) one += (double)addend(part, 0);
    REQUIRE(memcmp(&one, &all, sizeof one) == 0);
    free(mine);
    free(total);
}

/* ---- quantizing ------------------------------------------------------------------------------- */

static char original[512], file[2][600];
static model m;
static compute c;
static token_list text;

static team_options options_of(int group_size, bool improve, size_t shards)
{
    team_options o;

    memset(&o, 0, sizeof o);
    o.quantize = quantize_defaults();
    o.quantize.quant.group_size = group_size;
    o.quantize.method = improve ? METHOD_BEST : METHOD_AWQ;
    o.quantize.round.passes = 1;
    o.shards = shards;
    o.batch = 2;
    return o;
}

static group_report *quantize_into(team *by, const team_options *o, const char *path)
{
    quantized_model q;
    team_report r;

    REQUIRE(quantize_together(by, &q, &m, &c, &text, o, &r, &why));
    if (by->rank == 0) REQUIRE(save_model(&q.m, path, &why));
    quantized_model_close(&q);
    return r.groups;
}

static bool same_file(const char *a, const char *b)
{
    mapped_file x, y;
    bool same;

    REQUIRE(file_map(&x, a, &why) && file_map(&y, b, &why));
    same = x.size == y.size && memcmp(x.bytes, y.bytes, x.size) == 0;
    file_unmap(&x);
    file_unmap(&y);
    return same;
}

static bool near(double a, double b, double relative)
{
    return fabs(a - b) <= relative * fabs(b);
}

/*  What was summed in parts, beside one pass: tokens, maxima and ratios are the same, sums in double
    within 1e-13, sums in fp32 within 1e-5. */
static void compare_groups(const group_report *parts, const group_report *one)
{
    size_t i;

    for (i = 0; i < TINY_LAYERS * INPUTS; i++) {
        REQUIRE(parts[i].count == text.count && one[i].count == text.count);
        REQUIRE(near(parts[i].abs_max, one[i].abs_max, 0));
        REQUIRE(near(parts[i].weight, one[i].weight, 1e-13));
        REQUIRE(near(parts[i].abs_sum, one[i].abs_sum, 1e-13));
        REQUIRE(near(parts[i].sq_sum, one[i].sq_sum, 1e-13));
        REQUIRE(near(parts[i].sketch_power, one[i].sketch_power, 1e-5));
        REQUIRE(parts[i].search.index == one[i].search.index);
        REQUIRE(near(parts[i].search.loss, one[i].search.loss, 1e-4));
    }
}

static team alone(void)
{
    static int counts[4];
    team one = t;

    one.comm = MPI_COMM_SELF;
    one.rank = 0;
    one.ranks = one.neighbours = 1;
    one.send_counts = counts;
    one.send_offsets = counts + 1;
    one.receive_counts = counts + 2;
    one.receive_offsets = counts + 3;
    return one;
}

/*  The file of all ranks is that of one process with the same shards; with one shard it is that of
    examples/llm, which knows nothing of ranks. */
static void the_file_does_not_depend_on_the_ranks(int group_size, bool improve)
{
    team one = alone();
    team_options parts = options_of(group_size, improve, 4), whole = options_of(group_size, improve, 1);
    group_report *many, *few;
    quantized_model q;

    many = quantize_into(&t, &parts, file[0]);
    if (t.rank == 0) {
        few = quantize_into(&one, &parts, file[1]);
        REQUIRE(same_file(file[0], file[1]));
        REQUIRE(memcmp(many, few, TINY_LAYERS * INPUTS * sizeof *many) == 0);
        free(few);
    }
    few = quantize_into(&t, &whole, file[0]);
    compare_groups(many, few);
    if (t.rank == 0) {
        REQUIRE(quantize_model(&q, &m, &c, &text, &whole.quantize, &why));
        REQUIRE(save_model(&q.m, file[1], &why));
        quantized_model_close(&q);
        REQUIRE(same_file(file[0], file[1]));
    }
    free(many);
    free(few);
    MPI_Barrier(t.comm);
}

/* ---- running ---------------------------------------------------------------------------------- */

/*  Dequantized, a part is the same numbers as the whole's rows and inputs that it was cut from. */
static void compare_cut(const linear *part, const linear *whole, size_t row, size_t input)
{
    size_t rows = part->out_features, in = part->in_features, all = whole->in_features, r;
    float *a = malloc(rows * in * sizeof *a), *b = malloc(whole->out_features * all * sizeof *b);

    REQUIRE(a && b);
    REQUIRE(awq_packed_dequantize(&part->packed, NULL, awq_matrix_view(a, AWQ_F32, rows, in), 0,
                                  rows) == AWQ_OK);
    REQUIRE(awq_packed_dequantize(&whole->packed, NULL,
                                  awq_matrix_view(b, AWQ_F32, whole->out_features, all), 0,
                                  whole->out_features) == AWQ_OK);
    for (r = 0; r < rows; r++)
        REQUIRE(memcmp(a + r * in, b + (row + r) * all + input, in * sizeof *a) == 0);
    free(a);
    free(b);
}

static void parts_are_cut_exactly(const model *whole)
{
    static const float bias[TINY_DIM];
    linear *down = &whole->layers[1].linears[LINEAR_DOWN];
    size_t ranks, r;
    model_part part;

    REQUIRE(!down->bias);
    down->bias = bias;

    for (ranks = 1; ranks <= TINY_HEADS; ranks++)
        for (r = 0; r < ranks; r++) {
            const linear *from = whole->layers[1].linears, *to;
            REQUIRE(part_open(&part, whole, ranks, r, &why));
            to = part.m.layers[1].linears;
            compare_cut(&to[LINEAR_Q], &from[LINEAR_Q], part.heads.begin * TINY_HEAD_DIM, 0);
            compare_cut(&to[LINEAR_K], &from[LINEAR_K], part.kv_heads.begin * TINY_HEAD_DIM, 0);
            compare_cut(&to[LINEAR_O], &from[LINEAR_O], 0, part.heads.begin * TINY_HEAD_DIM);
            compare_cut(&to[LINEAR_UP], &from[LINEAR_UP], part.ffn.begin, 0);
            compare_cut(&to[LINEAR_DOWN], &from[LINEAR_DOWN], 0, part.ffn.begin);
            compare_cut(&part.m.head, &whole->head, part.head_rows.begin, 0);
            REQUIRE(to[LINEAR_UP].bias == from[LINEAR_UP].bias + part.ffn.begin);
            REQUIRE(to[LINEAR_DOWN].bias == (r == 0 ? bias : NULL));
            part_close(&part);
        }
    down->bias = NULL;
    REQUIRE(!part_open(&part, whole, TINY_HEADS + 1, 0, &why));
    REQUIRE(strstr(why.text, "attention heads") != NULL);
    REQUIRE(!part_open(&part, &m, 1, 0, &why));
    REQUIRE(strstr(why.text, "not quantized") != NULL);
}

static void all_ranks_run_what_one_would(const char *path)
{
    team_session ts;
    difference d;
    model q;

    REQUIRE(model_open(&q, path, &why));
    parts_are_cut_exactly(&q);
    REQUIRE(team_session_open(&ts, &t, &q, &c, 64, 64, &why));
    REQUIRE(compare_with_one(&ts, &q, &c, &text, &d, &why));
    if (t.rank == 0) {
        REQUIRE(d.tokens == 64 && d.rms < 1e-3 && d.most < 1e-2);
        REQUIRE(t.ranks > 1 || d.same_bits);
    }
    team_session_close(&ts);
    model_close(&q);
}

/* ---- the whole -------------------------------------------------------------------------------- */

static void make_model(const char *folder)
{
    tiny_options options = { "smollm", true, GGUF_F32, TINY_ROPE_NONE };
    byte_buffer bytes;
    size_t ignored, i;

    snprintf(original, sizeof original, "%.400s/tiny.gguf", folder);
    for (i = 0; i < 2; i++) snprintf(file[i], sizeof file[i], "%.400s/%zu.gguf", folder, i);
    if (t.rank == 0) {
        bytes = tiny_gguf(options, &ignored);
        REQUIRE(file_write_whole(original, bytes.bytes, bytes.size, &why));
        free(bytes.bytes);
    }
    MPI_Barrier(t.comm);
    REQUIRE(model_open(&m, original, &why) && compute_open(&c, 1, AWQ_A16, &why));
    for (i = 0; i < 5 * WINDOW; i++)
        REQUIRE(token_list_add(&text, (uint32_t)random_below(TINY_VOCABULARY), &why));
}

int main(int count, char **arguments)
{
    static const int group_sizes[] = { 32, 48, -1 };
    size_t i;

    REQUIRE(team_open(&t, &count, &arguments, &why));
    REQUIRE(count == 2);
    items_have_one_owner_and_loads_are_even();
    rows_are_dealt_once_and_evenly();
    heads_go_with_the_kv_heads_they_read();
    cut_groups_lie_inside_whole_ones();
    sums_have_the_order_of_their_parts();
    make_model(arguments[1]);
    for (i = 0; i < 3; i++) {
        the_file_does_not_depend_on_the_ranks(group_sizes[i], i == 0);
        all_ranks_run_what_one_would(file[0]);
    }
    the_file_does_not_depend_on_the_ranks(32, false);
    if (t.rank == 0) printf("test_mpi: %zu ranks: all as one process\n", t.ranks);
    token_list_free(&text);
    compute_close(&c);
    model_close(&m);
    team_close(&t);
    return 0;
}
