/*  emulator.h - what a test says to the emulator: memory, device, schedule, and what it found.   */
#ifndef EMULATOR_H
#define EMULATOR_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace emulator {

/* ---- device memory: protected outside launches ----------------------------------------------- */

/*  size bytes at an address that is `offset` beyond a multiple of 256; uninitialised. What lies
    between allocations may not be touched.                                                       */
void  *device_alloc(size_t size, size_t offset = 0);
/*  The same at this address of one's own choice, after all others: as far apart as one likes.    */
void  *device_place(void *address, size_t size);
void   device_write(void *to, const void *from, size_t size);      /* counts as initialised */
void   device_read(void *to, const void *from, size_t size);
void   device_fill(void *to, int byte, size_t size);               /* stays uninitialised   */
/*  Whether kernels (or host calls) wrote every one of these bytes, or none, since device_fill.   */
size_t device_written(const void *from, size_t size);
void   device_free_all();

/* ---- the device and its schedule ------------------------------------------------------------- */

struct device {
    int major = 8, minor = 0;
    bool has_code = true;           /* the binary has code for it */
    int registers = 0;              /* of each of its kernels */
    int multiprocessors = 108;
    int shared_per_block_optin = 163 * 1024;
    int resident_blocks = 4;        /* of a launch, at once: who spins may wait for these only */
};
extern device config;
extern void *expected_stream;       /* any other is reported */

/*  Blocks, warps and the steps of warps run in an order made from it.                            */
void set_seed(uint64_t seed);
/*  The nth launch from now returns this error and does nothing; 0: none does.                    */
void fail_launch(int nth, int error);

/* ---- findings -------------------------------------------------------------------------------- */

/*  The first thing that was wrong since the last call; empty: nothing was. A launch stops at it,
    and so do all that follow until this is called.                                               */
std::string report();

/*  Calls that order memory, by source line of the file with the kernels.                         */
enum site_kind { BARRIER, WARP_BARRIER, COPY_WAIT, FENCE, PROXY_FENCE, MBARRIER_WAIT,
                 MBARRIER_ARRIVE, WGMMA_FENCE, WGMMA_COMMIT, WGMMA_WAIT, SITE_KINDS };
struct site { site_kind kind; int line; };
std::vector<site> sites();          /* met in launches since forget_sites() */
void forget_sites();
/*  From now on that call does nothing; line 0: all work again.                                   */
void remove_site(site which);
const char *site_name(site_kind kind);

struct counters { uint64_t launches, blocks, mma, wgmma, ldmatrix, ldmatrix_conflicts, cp_async; };
extern counters counted;

}   /* namespace emulator */

#endif
