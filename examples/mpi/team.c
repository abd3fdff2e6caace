/*  team.c - see team.h. */
#include "team.h"

#include "deal.h"

#define CHUNK ((size_t)1 << 20)     /* numbers of a sum exchanged at a time */
#define MESSAGE ((size_t)1 << 30)   /* bytes; MPI counts with int */

bool team_open(team *t, int *argument_count, char ***arguments, failure *why)
{
    MPI_Comm machine;
    int rank, ranks, neighbours, provided;

    memset(t, 0, sizeof *t);
    MPI_Init_thread(argument_count, arguments, MPI_THREAD_FUNNELED, &provided);
    t->comm = MPI_COMM_WORLD;
    MPI_Comm_rank(t->comm, &rank);
    MPI_Comm_size(t->comm, &ranks);
    MPI_Comm_split_type(t->comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &machine);
    MPI_Comm_size(machine, &neighbours);
    MPI_Comm_free(&machine);
    t->rank = (size_t)rank;
    t->ranks = (size_t)ranks;
    t->neighbours = (size_t)neighbours;
    t->send_counts = malloc(4 * t->ranks * sizeof *t->send_counts);
    t->slices = malloc((CHUNK + t->ranks) * sizeof(double));
    if (provided < MPI_THREAD_FUNNELED) return fail(why, "this MPI does not allow threads");
    if (!t->send_counts || !t->slices) return fail(why, "out of memory");
    t->send_offsets = t->send_counts + t->ranks;
    t->receive_counts = t->send_offsets + t->ranks;
    t->receive_offsets = t->receive_counts + t->ranks;
    return true;
}

void team_close(team *t)
{
    free(t->send_counts);
    free(t->slices);
    MPI_Finalize();
}

/* ---- failing --------------------------------------------------------------------------------- */

bool team_agrees(const team *t, bool done, const failure *why)
{
    int mine = done ? (int)t->ranks : (int)t->rank, first;

    MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, t->comm);
    if (first == (int)t->rank) fprintf(stderr, "error: rank %d: %s\n", first, why->text);
    return first == (int)t->ranks;
}

void team_abort(const team *t, const failure *why)
{
    fprintf(stderr, "error: rank %zu: %s\n", t->rank, why->text);
    fflush(NULL);
    MPI_Abort(t->comm, 1);
}

/* ---- sums ------------------------------------------------------------------------------------ */

static size_t number_size(number_kind kind)
{
    return kind == FLOATS ? sizeof(float) : sizeof(double);
}

static MPI_Datatype number_type(number_kind kind)
{
    return kind == FLOATS ? MPI_FLOAT : MPI_DOUBLE;
}

/*  Which slice of a chunk of `count` numbers is whose, and where the ranks' versions of this rank's
    slice are put. Returns the length of that slice. */
static size_t cut_chunk(team *t, size_t count)
{
    range mine = deal(count, t->ranks, t->rank), share;
    size_t r, length = mine.end - mine.begin;

    for (r = 0; r < t->ranks; r++) {
        share = deal(count, t->ranks, r);
        t->send_offsets[r] = (int)share.begin;
        t->send_counts[r] = (int)(share.end - share.begin);
        t->receive_offsets[r] = (int)(r * length);
        t->receive_counts[r] = (int)length;
    }
    return length;
}

static void add_floats(float *total, const float *addends, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) total[i] += addends[i];
}

static void add_doubles(double *total, const double *addends, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) total[i] += addends[i];
}

/*  Sends every rank its slice of the addends and adds up what has come, rank after rank. */
static void add_chunk(team *t, number_kind kind, const void *addends, size_t contributors,
                      unsigned char *total, size_t count)
{
    size_t mine = cut_chunk(t, count), first = (size_t)t->send_offsets[t->rank], r;
    void *sum = total + first * number_size(kind);

    MPI_Alltoallv(addends, t->send_counts, t->send_offsets, number_type(kind), t->slices,
                  t->receive_counts, t->receive_offsets, number_type(kind), t->comm);
    t->sent += (count - mine) * number_size(kind);
    for (r = 0; r < contributors; r++)
        if (kind == FLOATS)
            add_floats(sum, (const float *)t->slices + r * mine, mine);
        else
            add_doubles(sum, (const double *)t->slices + r * mine, mine);
}

void team_add(team *t, number_kind kind, const void *addends, size_t contributors, void *total,
              size_t count)
{
    size_t i, size = number_size(kind);

    for (i = 0; i < count; i += CHUNK)
        add_chunk(t, kind, (const unsigned char *)addends + i * size, contributors,
                  (unsigned char *)total + i * size, count - i < CHUNK ? count - i : CHUNK);
}

void team_complete(team *t, number_kind kind, void *total, size_t count)
{
    size_t i, n, size = number_size(kind);

    for (i = 0; i < count; i += n) {
        n = count - i < CHUNK ? count - i : CHUNK;
        (void)cut_chunk(t, n);
        MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, (unsigned char *)total + i * size,
                       t->send_counts, t->send_offsets, number_type(kind), t->comm);
        t->sent += n * size * (t->ranks - 1) / t->ranks;
    }
}

/*  MPI requires that everyone gets the same bits. */
static void reduce(team *t, float *x, size_t count, MPI_Op operation)
{
    MPI_Allreduce(MPI_IN_PLACE, x, (int)count, MPI_FLOAT, operation, t->comm);
    t->sent += 2 * count * sizeof *x * (t->ranks - 1) / t->ranks;
}

void team_sum(team *t, float *x, size_t count)
{
    reduce(t, x, count, MPI_SUM);
}

void team_max(team *t, float *x, size_t count)
{
    reduce(t, x, count, MPI_MAX);
}

uint64_t team_count(const team *t, uint64_t mine)
{
    uint64_t all;
    MPI_Allreduce(&mine, &all, 1, MPI_UINT64_T, MPI_SUM, t->comm);
    return all;
}

double team_most(const team *t, double mine)
{
    double most;
    MPI_Allreduce(&mine, &most, 1, MPI_DOUBLE, MPI_MAX, t->comm);
    return most;
}

uint32_t team_largest(team *t, float value, uint32_t index)
{
    struct { float value; int index; } largest;

    largest.value = value;
    largest.index = (int)index;
    MPI_Allreduce(MPI_IN_PLACE, &largest, 1, MPI_FLOAT_INT, MPI_MAXLOC, t->comm);
    t->sent += 2 * sizeof largest * (t->ranks - 1) / t->ranks;
    return (uint32_t)largest.index;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

/*  Counted as a chain: everyone but the last passes the bytes on once. */
void team_share(team *t, size_t owner, void *bytes, size_t size)
{
    MPI_Bcast(bytes, (int)size, MPI_BYTE, (int)owner, t->comm);
    t->sent += size * (t->ranks - 1) / t->ranks;
}

void team_move(team *t, size_t from, size_t to, void *bytes, size_t size)
{
    unsigned char *at = bytes;
    size_t some;

    for (; size && from != to; at += some, size -= some) {
        some = size < MESSAGE ? size : MESSAGE;
        if (t->rank == from) MPI_Send(at, (int)some, MPI_BYTE, (int)to, 0, t->comm);
        if (t->rank == to)
            MPI_Recv(at, (int)some, MPI_BYTE, (int)from, 0, t->comm, MPI_STATUS_IGNORE);
        if (t->rank == from) t->sent += some;
    }
}
