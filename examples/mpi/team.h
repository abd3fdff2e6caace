/*  team.h - the processes of an MPI job: sums over all of them in one order, bytes from one to the
    others, and an end for all when one fails.

    MPI's own errors end the job (MPI_ERRORS_ARE_FATAL), so no call here returns one. Include this
    before any system header. */
#ifndef MPI_TEAM_H
#define MPI_TEAM_H

#include "../common/files.h"

#include <mpi.h>

typedef struct team {
    MPI_Comm comm;
    size_t rank, ranks;
    size_t neighbours;          /* ranks on this machine, this one included */
    int *send_counts, *send_offsets, *receive_counts, *receive_offsets;     /* [ranks] */
    void *slices;               /* what has come for one chunk of a sum, [ranks][slice] */
    uint64_t sent;              /* bytes that this rank has sent, as docs/scaling.md counts them */
} team;

bool team_open(team *t, int *argument_count, char ***arguments, failure *why);
void team_close(team *t);

/*  True if `done` is on every rank. Else one of those where it is not prints its reason. */
bool team_agrees(const team *t, bool done, const failure *why);
/*  Prints the reason, and ends the processes of the whole job. */
void team_abort(const team *t, const failure *why);


/*  The parts of a sum are floats or doubles. */
typedef enum number_kind { FLOATS, DOUBLES } number_kind;

/*  total += the addends of ranks 0, 1, ... contributors - 1, in this order. Every rank adds up its
    slice of the numbers only; team_complete() gives it to the others. So a sum over parts does not
    depend on how many ranks there are to compute them. */
void team_add(team *t, number_kind kind, const void *addends, size_t contributors, void *total,
              size_t count);
void team_complete(team *t, number_kind kind, void *total, size_t count);

/*  x = the sum of all ranks' x, the same bits on each. */
void team_sum(team *t, float *x, size_t count);
void team_max(team *t, float *x, size_t count);
uint64_t team_count(const team *t, uint64_t mine);
double team_most(const team *t, double mine);

/*  The index that goes with the largest value of all ranks, the smallest such. */
uint32_t team_largest(team *t, float value, uint32_t index);

/*  The owner's bytes to everyone; one rank's bytes to another. */
void team_share(team *t, size_t owner, void *bytes, size_t size);
void team_move(team *t, size_t from, size_t to, void *bytes, size_t size);

#endif
