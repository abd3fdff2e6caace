/*  tiles.h - asks the operating system for AMX's tile registers, before awq_kernels_best() looks.   */
#ifndef COMMON_TILES_H
#define COMMON_TILES_H

#if defined(__linux__) && defined(__x86_64__)
#include <unistd.h>
#include <sys/syscall.h>

long syscall(long number, ...);     /* which -std=c99 hides */

/*  Where there is no AMX the system refuses, and nothing changes.                                */
static inline void ask_for_tiles(void)
{
    enum { REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
    (void)syscall(SYS_arch_prctl, REQ_XCOMP_PERM, TILE_DATA);
}
#else
static inline void ask_for_tiles(void) { }
#endif

#endif
