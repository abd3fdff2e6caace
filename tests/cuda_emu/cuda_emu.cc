/*  cuda_emu.cc - the execution model and its checks.

    Every CUDA thread is a fiber. A fiber runs until it waits (barrier, warp collective, spinning) or
    returns; then the next runnable fiber of its block does. A block that only spins makes room for
    others. Accesses of kernels arrive through the __tsan_* functions at the end, which the compiler
    calls in files built with -fsanitize=thread. */
#include "cuda_emu.h"
#include "emulator.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#include <algorithm>
#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <random>

#include <dlfcn.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

using namespace emulator;

cuda_emu::special_registers cuda_emu::registers;
device emulator::config;
counters emulator::counted;
void *emulator::expected_stream;

namespace {

const unsigned LANES = 32, MAX_THREADS = 1024, MAX_RESIDENT = 16;
const int MAX_LINES = 20000;
const size_t STACK_SIZE = 128 * 1024, PAGE = 4096;
const size_t SHARED_SIZE = 256 * 1024, SHARED_GAP = 1024 * 1024;
const unsigned MAX_WARPS = MAX_THREADS / LANES, FIRST_ADDRESS = 1024;
const size_t ARENA_SIZE = size_t(64) << 30;

/* ---- state ----------------------------------------------------------------------------------- */

/*  Who wrote or read a byte of shared memory last. An epoch is one block's time between two
    barriers and never comes back; a step is one warp's time between two __syncwarp.              */
struct shared_byte {
    uint32_t write_epoch, write_step, read_epoch, read_step;
    uint64_t write_time;
    uint16_t writer, reader;
    uint16_t wgmma_reads;           /* that are not complete */
    bool many_lanes, many_warps;    /* of the reader's warp and step; of the epoch */
    bool in_flight;                 /* a cp.async writes it */
};

/*  Who wrote a byte of global memory last, and in which launch.                                  */
struct global_byte {
    uint32_t launch, block, epoch, step;
    uint64_t time;
    uint16_t writer;
    bool atomic;
};

struct allocation {
    uintptr_t begin, end;
    uint8_t *initialised, *written;
    global_byte *bytes;
};

struct copy { unsigned char *to; const unsigned char *from; unsigned valid; const void *caller; };

/*  What someone knows of every thread of a block, where barriers of all threads do not say so
    already: what it did before a time, and when, before that, it had fenced its writes for wgmma
    (proxy) and for other blocks.                                                                 */
struct knowledge {
    uint32_t epoch;
    std::vector<uint64_t> seen, proxy_fenced, fenced;
    std::vector<uint64_t> warp_seen;        /* the least of each warp's */
};

struct mbarrier {
    unsigned count, arrived, parity;
    knowledge coming, complete;     /* of those who arrived in this phase; in all before it */
    std::vector<struct thread *> waiting;
};

/*  Registers that a wgmma has and the thread may not touch. The sums are kept here meanwhile.    */
struct lent_registers {
    const void *begin;
    size_t size;
    unsigned uses;
    std::vector<float> sums;
};

/*  A warp's share of a wgmma: 16 rows.                                                           */
struct wgmma_share {
    unsigned columns;
    float (*widen)(uint16_t);
    float *d[LANES];
    const unsigned *a[LANES];
    uint64_t descriptor;
};

struct thread {
    jmp_buf context;
    ucontext_t start;
    bool started;               /* its fiber exists and waits for work */
    bool exited;
    uint64_t fenced;            /* time and epoch of its last fence, 0 for none */
    uint32_t fence_epoch;
    unsigned index;             /* in its block */
    uint3 id;
    std::vector<std::vector<copy>> groups;      /* of cp.async; the last is not committed yet */
    knowledge knows;
    uint64_t proxy_fence, proxy_fence_of_step, proxy_fence_of_epoch, fenced_of_step, wgmma_fence;
    std::vector<lent_registers> lent;
    const char *waits_for;
    int line;
};

/*  A collective of the lanes in mask that is not complete yet.                                   */
struct gathering {
    const char *what;
    int line;
    unsigned mask, arrived;
    void *operand[LANES];
};

struct warp {
    uint32_t step;
    uint64_t step_time;
    bool learned;               /* some lane of it, since the last __syncwarp */
    std::vector<std::vector<wgmma_share>> groups;   /* of wgmma; the last is not committed yet */
    size_t wgmmas;
    unsigned exited, size;
    std::vector<gathering> open;
};

/*  What an atomic at time `since` publishes: what a thread wrote before its own fence, and what all
    wrote in epochs before a fence. The fence is of the atomic's thread, or of an epoch before.   */
struct release {
    uint64_t since;
    uint32_t epochs_until;
    std::vector<uint64_t> until;    /* by thread */
};

struct block {
    unsigned slot, number, threads, alive, at_barrier;
    uint3 id;
    const char *barrier;
    int barrier_line, predicate, result;
    uint32_t epoch, first_epoch;
    uint64_t epoch_time;
    bool partial;                   /* not all its barriers are of all threads */
    std::map<uintptr_t, mbarrier> mbarriers;
    struct partial_barrier { unsigned threads; int line; std::vector<thread *> arrived; };
    std::map<unsigned, partial_barrier> barriers;
    std::vector<std::vector<std::pair<int, uint64_t>>> wgmmas;     /* by warpgroup: line, descriptor */
    bool has_fenced;
    uint64_t met, acquired;         /* times of its last atomic, and of that before its last fence */
    std::vector<release> releases;
    std::vector<warp> warps;
    std::deque<thread *> runnable;
    std::vector<thread *> spinning;     /* until other blocks have run */
    unsigned char *shared;
    shared_byte *bytes;
    uint64_t (*read_times)[MAX_WARPS];      /* of each 4 bytes, if some barriers are partial */
};

struct launch_state {
    cuda_emu::work what;
    dim3 grid, block_dim;
    size_t shared_bytes;
    size_t shared_offset;       /* of dynamic shared memory from a multiple of 1024 */
    bool eager;                 /* a warp goes on until it waits for other warps */
    bool reversed;              /* lanes from the last to the first */
};

struct {
    unsigned char *stacks, *shared, *arena;
    size_t arena_used;
    shared_byte *shared_bytes;
    uint64_t (*read_times)[MAX_WARPS];
    uint64_t *private_times;        /* when each 4 bytes of the stacks were written */
    thread *threads;
    block blocks[MAX_RESIDENT];

    launch_state launch;
    uint32_t launches, epochs, progress;
    uint64_t time;
    std::vector<release> *published;            /* by number of block, of this launch */
    block *block_now;
    thread *thread_now;
    jmp_buf scheduler;
    bool in_atomic;

    std::vector<allocation> allocations;
    size_t last_hit;
    std::mt19937_64 random;
    std::string finding;
    cudaError_t error;
    int launches_until_failure;
    cudaError_t failure;
    std::map<const void *, int> shared_limit;   /* by kernel, from cudaFuncSetAttribute */
    bool met[SITE_KINDS][MAX_LINES];
    site removed;
} s;

/* ---- findings -------------------------------------------------------------------------------- */

std::string source_line(const void *caller)
{
    Dl_info image;
    if (!caller || !dladdr(caller, &image)) return "";
    const uintptr_t pc = uintptr_t(caller) - uintptr_t(image.dli_fbase) - 1;
    char command[512], line[512];
    snprintf(command, sizeof command, "addr2line -Cspife %s %#lx 2>/dev/null", image.dli_fname,
             static_cast<unsigned long>(pc));
    std::string text;
    FILE *pipe = popen(command, "r");
    while (pipe && fgets(line, sizeof line, pipe)) text += std::string("\n    ") + line;
    if (pipe) pclose(pipe);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
}

std::string who()
{
    if (!s.thread_now) return "host";
    char text[96];
    const uint3 b = s.block_now->id, t = s.thread_now->id;
    snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u)", b.x, b.y, b.z, t.x, t.y, t.z);
    return text;
}

/*  Ends the launch.                                                                              */
__attribute__((format(printf, 2, 3), noreturn))
void fail(const void *caller, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    s.finding = who() + ": " + text + source_line(caller);
    if (!s.thread_now) {
        fprintf(stderr, "%s\n", s.finding.c_str());
        abort();
    }
    _longjmp(s.scheduler, 1);
}

bool removed(site_kind kind, int line)
{
    s.met[kind][line] = true;
    return s.removed.line == line && s.removed.kind == kind;
}

/* ---- fibers ---------------------------------------------------------------------------------- */

void finish_thread();

/*  What every fiber does, for ever: the work of the launch, then the next thread.                */
void fiber_main()
{
    for (;;) {
        s.launch.what.run(s.launch.what.closure);
        finish_thread();
    }
}

unsigned char *stack_of(const thread *t)
{
    return s.stacks + size_t(t - s.threads) * STACK_SIZE;
}

void resume(thread *t)
{
    s.thread_now = t;
    cuda_emu::registers.thread = t->id;
    if (t->started) _longjmp(t->context, 1);
    t->started = true;
    mprotect(stack_of(t), PAGE, PROT_NONE);
    getcontext(&t->start);
    t->start.uc_stack.ss_sp = stack_of(t) + PAGE;
    t->start.uc_stack.ss_size = STACK_SIZE - PAGE;
    t->start.uc_link = nullptr;
    makecontext(&t->start, fiber_main, 0);
    setcontext(&t->start);
}

/*  Leaves this fiber for the next runnable one, or for the scheduler.                            */
void yield()
{
    if (_setjmp(s.thread_now->context)) return;
    std::deque<thread *> &runnable = s.block_now->runnable;
    if (runnable.empty()) _longjmp(s.scheduler, 1);
    thread *next = runnable.front();
    runnable.pop_front();
    resume(next);
}

void wake(thread *t)
{
    s.progress++;
    t->waits_for = nullptr;
    if (t == s.thread_now) return;
    if (s.launch.eager) s.block_now->runnable.push_front(t);
    else s.block_now->runnable.push_back(t);
}

thread *thread_of(const block *b, unsigned index)
{
    return s.threads + size_t(b->slot) * MAX_THREADS + index;
}

/* ---- barriers of a block --------------------------------------------------------------------- */

void open_barrier(block *b)
{
    b->at_barrier = 0;
    b->epoch = ++s.epochs;
    b->epoch_time = ++s.time;
    for (unsigned i = 0; i < b->threads; i++) {
        thread_of(b, i)->proxy_fence_of_epoch = thread_of(b, i)->proxy_fence;
    }
    b->result = b->predicate;
    b->predicate = 0;
    for (unsigned i = 0; i < b->threads; i++) wake(thread_of(b, i));
}

int arrive_at_barrier(const char *what, int predicate, int line)
{
    block *b = s.block_now;
    thread *self = s.thread_now;
    if (b->alive < b->threads) fail(nullptr, "line %d: %s after a thread has left", line, what);
    if (b->at_barrier && (b->barrier_line != line || b->barrier != what)) {
        fail(nullptr, "divergent: %s of line %d while others wait at %s of line %d", what, line,
             b->barrier, b->barrier_line);
    }
    b->barrier = what;
    b->barrier_line = line;
    b->predicate |= predicate;
    self->waits_for = what;
    self->line = line;
    if (++b->at_barrier == b->threads) open_barrier(b);
    else yield();
    return b->result;
}

/* ---- collectives of a warp ------------------------------------------------------------------- */

warp *warp_now() { return &s.block_now->warps[s.thread_now->index / LANES]; }
unsigned lane_now() { return s.thread_now->index % LANES; }

gathering *find_gathering(warp *w, const char *what, unsigned mask, int line)
{
    for (gathering &g : w->open) {
        if (g.mask != mask) continue;
        if (g.what != what || g.line != line) {
            fail(nullptr, "divergent: %s of line %d while lanes of the warp wait at %s of line %d",
                 what, line, g.what, g.line);
        }
        return &g;
    }
    w->open.push_back({ what, line, mask, 0, { } });
    return &w->open.back();
}

/*  Waits for all lanes in mask; the last to come calls complete with everyone's operand.         */
template <class Complete>
void converge(const char *what, unsigned mask, int line, void *operand, Complete complete)
{
    warp *w = warp_now();
    const unsigned lane = lane_now();
    if (!(mask >> lane & 1)) fail(nullptr, "line %d: %s by a lane that is not in its mask", line, what);
    if (mask & w->exited) fail(nullptr, "line %d: %s names a lane that has left", line, what);
    gathering *g = find_gathering(w, what, mask, line);
    g->operand[lane] = operand;
    g->arrived |= 1u << lane;
    s.thread_now->waits_for = what;
    s.thread_now->line = line;
    if (g->arrived != mask) {
        yield();
        return;
    }
    const gathering all = *g;
    w->open.erase(w->open.begin() + (g - w->open.data()));
    complete(all.operand);
    const unsigned first = s.thread_now->index - lane;
    for (unsigned i = 0; i < LANES; i++) {
        const unsigned woken = s.launch.reversed ? LANES - 1 - i : i;
        if (mask >> woken & 1) wake(thread_of(s.block_now, first + woken));
    }
}

unsigned full_mask() { return warp_now()->size == LANES ? ~0u : (1u << warp_now()->size) - 1; }

/* ---- who knows what of whom ------------------------------------------------------------------ */

/*  to becomes what both know, and warp_seen what follows; of an epoch before, nothing needs to be
    known.                                                                                        */
void learn(knowledge *to, const knowledge &from)
{
    const block *b = s.block_now;
    if (to->epoch != b->epoch) {
        to->epoch = b->epoch;
        to->seen.assign(b->threads, 0);
        to->proxy_fenced.assign(b->threads, 0);
        to->fenced.assign(b->threads, 0);
        to->warp_seen.assign(b->warps.size(), 0);
    }
    if (from.epoch != b->epoch) return;
    for (unsigned i = 0; i < b->threads; i++) {
        to->seen[i] = std::max(to->seen[i], from.seen[i]);
        to->proxy_fenced[i] = std::max(to->proxy_fenced[i], from.proxy_fenced[i]);
        to->fenced[i] = std::max(to->fenced[i], from.fenced[i]);
    }
    for (unsigned w = 0; w < to->warp_seen.size(); w++) {
        const auto first = to->seen.begin() + w * LANES;
        to->warp_seen[w] = *std::min_element(first, first + std::min(LANES, b->threads - w * LANES));
    }
}

/*  What this thread publishes where it arrives: all it knows, itself until now, and the other lanes
    of its warp until their last __syncwarp.                                                      */
void publish(knowledge *to)
{
    const thread *self = s.thread_now;
    const unsigned first = self->index - lane_now();
    learn(to, self->knows);
    for (unsigned i = first; i < first + warp_now()->size; i++) {
        const thread *t = thread_of(s.block_now, i);
        const uint64_t proxy_fenced = t == self ? t->proxy_fence : t->proxy_fence_of_step;
        const uint64_t fenced = t == self ? t->fenced : t->fenced_of_step;
        to->seen[i] = std::max(to->seen[i], warp_now()->step_time);
        to->proxy_fenced[i] = std::max(to->proxy_fenced[i], proxy_fenced);
        to->fenced[i] = std::max(to->fenced[i], fenced);
    }
    to->seen[self->index] = ++s.time;
}

/* ---- shared memory --------------------------------------------------------------------------- */

bool in_shared(uintptr_t address)
{
    return address - uintptr_t(s.block_now->shared) < SHARED_SIZE;
}

/*  Until when this thread has seen another one of its block, by partial barriers and __syncwarp. */
uint64_t seen(unsigned other)
{
    const knowledge &k = s.thread_now->knows;
    const uint64_t time = k.epoch == s.block_now->epoch ? k.seen[other] : 0;
    if (other / LANES != s.thread_now->index / LANES) return time;
    return std::max(time, warp_now()->step_time);
}

/*  The same of all other lanes of a warp.                                                        */
uint64_t warp_seen(unsigned w)
{
    const knowledge &k = s.thread_now->knows;
    const unsigned self = s.thread_now->index;
    if (w != self / LANES) return k.epoch == s.block_now->epoch ? k.warp_seen[w] : 0;
    uint64_t least = ~uint64_t(0);
    for (unsigned i = w * LANES; i < (w + 1) * LANES; i++) {
        if (i != self) least = std::min(least, seen(i));
    }
    return least;
}

/*  Whether what another thread did at (epoch, step) and time comes before now.                   */
bool ordered(unsigned other, uint32_t epoch, uint32_t step, uint64_t time)
{
    if (other == s.thread_now->index || epoch != s.block_now->epoch) return true;
    if (other / LANES == s.thread_now->index / LANES && step != warp_now()->step) return true;
    return s.block_now->partial && seen(other) > time;
}

/*  Whether all reads since the last barrier come before now: with partial barriers, whether this
    thread has seen all lanes of every warp that read.                                            */
bool reads_ordered(const shared_byte &b, size_t offset)
{
    if (b.read_epoch != s.block_now->epoch) return true;
    if (!b.many_warps && b.reader / LANES == s.thread_now->index / LANES) {
        if (b.read_step != warp_now()->step) return true;
        if (b.reader == s.thread_now->index && !b.many_lanes) return true;
    }
    if (!s.block_now->partial) return false;
    for (unsigned w = 0; w < s.block_now->warps.size(); w++) {
        const uint64_t time = s.block_now->read_times[offset / 4][w];
        if (time >= s.block_now->epoch_time && warp_seen(w) <= time) return false;
    }
    return true;
}

bool same_reads(const shared_byte &a, const shared_byte &b)
{
    return a.read_epoch == b.read_epoch && a.read_step == b.read_step && a.reader == b.reader
        && a.many_lanes == b.many_lanes && a.many_warps == b.many_warps;
}

void note_reader(shared_byte *b)
{
    const uint16_t self = uint16_t(s.thread_now->index);
    const uint32_t epoch = s.block_now->epoch, step = warp_now()->step;
    if (b->read_epoch != epoch) b->many_warps = b->many_lanes = false;
    else if (b->reader / LANES != self / LANES) b->many_warps = true;
    else if (b->read_step != step) b->many_lanes = false;
    else if (b->reader != self) b->many_lanes = true;
    b->read_epoch = epoch;
    b->read_step = step;
    b->reader = self;
    if (!s.block_now->partial) return;
    s.block_now->read_times[(b - s.block_now->bytes) / 4][self / LANES] = s.time;
}

void note_writer(shared_byte *b)
{
    b->write_epoch = s.block_now->epoch;
    b->write_step = warp_now()->step;
    b->write_time = s.time;
    b->writer = uint16_t(s.thread_now->index);
}

shared_byte *shared_range(uintptr_t address, size_t size, const void *caller)
{
    const size_t offset = address - uintptr_t(s.block_now->shared);
    if (offset + size > s.launch.shared_bytes) {
        fail(caller, "access of %zu bytes at %zu of %zu bytes of shared memory", size, offset,
             s.launch.shared_bytes);
    }
    return s.block_now->bytes + offset;
}

void read_shared(uintptr_t address, size_t size, const void *caller)
{
    shared_byte *b = shared_range(address, size, caller);
    const size_t offset = address - uintptr_t(s.block_now->shared);
    for (size_t i = 0; i < size; i++, b++) {
        if (b->in_flight) fail(caller, "read of shared byte %zu before its cp.async was waited for",
                               offset + i);
        if (b->write_epoch < s.block_now->first_epoch) {
            fail(caller, "read of shared byte %zu, which was never written", offset + i);
        }
        if (!ordered(b->writer, b->write_epoch, b->write_step, b->write_time)) {
            fail(caller, "race: read of shared byte %zu, written by thread %u with no barrier since",
                 offset + i, unsigned(b->writer));
        }
        note_reader(b);
    }
}

void check_write_shared(uintptr_t address, size_t size, const void *caller)
{
    shared_byte *b = shared_range(address, size, caller);
    const size_t offset = address - uintptr_t(s.block_now->shared);
    for (size_t i = 0; i < size; i++, b++) {
        if (b->in_flight) fail(caller, "write of shared byte %zu while a cp.async to it is in flight",
                               offset + i);
        if (b->wgmma_reads) fail(caller, "write of shared byte %zu while a wgmma reads it", offset + i);
        if (!ordered(b->writer, b->write_epoch, b->write_step, b->write_time)) {
            fail(caller, "race: write of shared byte %zu, written by thread %u with no barrier since",
                 offset + i, unsigned(b->writer));
        }
        const bool as_before = i && (offset + i) % 4 && same_reads(b[0], b[-1]);
        if (!as_before && !reads_ordered(*b, offset + i)) {
            fail(caller, "race: write of shared byte %zu, read by thread %u with no barrier since",
                 offset + i, unsigned(b->reader));
        }
    }
}

void write_shared(uintptr_t address, size_t size, const void *caller)
{
    check_write_shared(address, size, caller);
    shared_byte *b = shared_range(address, size, caller);
    for (size_t i = 0; i < size; i++) note_writer(b + i);
}

/* ---- global memory --------------------------------------------------------------------------- */

allocation *find_allocation(uintptr_t address, size_t size)
{
    for (size_t i = 0; i < s.allocations.size(); i++) {
        const size_t at = (s.last_hit + i) % s.allocations.size();
        allocation *a = &s.allocations[at];
        if (address >= a->begin && address + size <= a->end) {
            s.last_hit = at;
            return a;
        }
    }
    return nullptr;
}

/*  Whether another block's write is published to this one: that block had a fence after it and then
    an atomic, and after that this one had an atomic and then a fence.                            */
bool published(const global_byte &b)
{
    for (const release &r : s.published[b.block]) {
        if (r.since > s.block_now->acquired) continue;
        if (b.epoch < r.epochs_until || b.time <= r.until[b.writer]) return true;
    }
    return false;
}

bool global_ordered(const global_byte &b)
{
    if (b.launch != s.launches) return true;
    if (b.block != s.block_now->number) return published(b);
    return ordered(b.writer, b.epoch, b.step, b.time);
}

void check_order(const global_byte &b, size_t offset, const char *what, bool atomic,
                 const void *caller)
{
    if ((atomic && b.atomic) || global_ordered(b)) return;
    fail(caller, "race: %s of global byte %zu of its buffer, written by block %u thread %u %s", what,
         offset, b.block, unsigned(b.writer),
         b.block == s.block_now->number ? "with no barrier since" : "with no fence and atomic since");
}

void read_global(const allocation *a, uintptr_t address, size_t size, bool atomic,
                 const void *caller)
{
    const size_t offset = address - a->begin;
    for (size_t i = offset; i < offset + size; i++) {
        if (!a->initialised[i]) fail(caller, "read of byte %zu of a buffer, which was never written", i);
        if (a->written[i]) check_order(a->bytes[i], i, "read", atomic, caller);
    }
}

void write_global(allocation *a, uintptr_t address, size_t size, bool atomic, const void *caller)
{
    const size_t offset = address - a->begin;
    for (size_t i = offset; i < offset + size; i++) {
        global_byte *b = &a->bytes[i];
        check_order(*b, i, "write", atomic, caller);
        a->initialised[i] = a->written[i] = 1;
        *b = { s.launches, s.block_now->number, s.block_now->epoch, warp_now()->step, s.time,
               uint16_t(s.thread_now->index), atomic };
    }
}

/* ---- every access ---------------------------------------------------------------------------- */

extern "C" const char __executable_start, end;

bool inside(uintptr_t address, size_t size, const void *begin, size_t length)
{
    return address >= uintptr_t(begin) && address + size <= uintptr_t(begin) + length;
}

/*  Memory that is no one's business: the fiber's stack, its registers, parameters and constants. */
bool is_private(uintptr_t address, size_t size, bool write)
{
    if (inside(address, size, stack_of(s.thread_now), STACK_SIZE)) return true;
    if (write) return false;
    return inside(address, size, &cuda_emu::registers, sizeof cuda_emu::registers)
        || inside(address, size, s.launch.what.closure, s.launch.what.closure_size)
        || inside(address, size, &__executable_start, size_t(&end - &__executable_start));
}

/*  Registers, which are on the fiber's stack: a wgmma may have them, or want to know of a write.  */
void note_private(uintptr_t address, size_t size, bool write, const void *caller)
{
    for (const lent_registers &l : s.thread_now->lent) {
        if (address + size <= uintptr_t(l.begin) || address >= uintptr_t(l.begin) + l.size) continue;
        fail(caller, "%s of registers of a wgmma that was not waited for", write ? "write" : "read");
    }
    if (!write || !inside(address, size, s.stacks, MAX_RESIDENT * MAX_THREADS * STACK_SIZE)) return;
    const size_t first = (address - uintptr_t(s.stacks)) / 4;
    for (size_t i = 0; i < (size + 3) / 4; i++) s.private_times[first + i] = s.time;
}

void access(uintptr_t address, size_t size, bool write, bool aligned, const void *caller)
{
    if (!s.thread_now || s.in_atomic || !size) return;
    if (aligned && address % size) {
        fail(caller, "misaligned %s of %zu bytes", write ? "write" : "read", size);
    }
    if (in_shared(address)) {
        if (write) write_shared(address, size, caller);
        else read_shared(address, size, caller);
        return;
    }
    if (is_private(address, size, write)) {
        note_private(address, size, write, caller);
        return;
    }
    allocation *a = find_allocation(address, size);
    if (!a) fail(caller, "%s of %zu bytes outside every buffer of the device",
                 write ? "write" : "read", size);
    if (write) write_global(a, address, size, false, caller);
    else read_global(a, address, size, false, caller);
}

/* ---- launches -------------------------------------------------------------------------------- */

void *reserve(size_t size, int protection = PROT_READ | PROT_WRITE)
{
    void *memory = mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    return memory;
}

void prepare_once()
{
    if (s.stacks) return;
    s.stacks = static_cast<unsigned char *>(reserve(MAX_RESIDENT * MAX_THREADS * STACK_SIZE));
    s.shared = static_cast<unsigned char *>(reserve(MAX_RESIDENT * SHARED_GAP));
    s.arena = static_cast<unsigned char *>(reserve(ARENA_SIZE, PROT_NONE));
    s.shared_bytes = static_cast<shared_byte *>(reserve(MAX_RESIDENT * SHARED_SIZE
                                                        * sizeof(shared_byte)));
    s.read_times = static_cast<uint64_t (*)[MAX_WARPS]>(reserve(MAX_RESIDENT * SHARED_SIZE / 4
                                                                * sizeof *s.read_times));
    s.private_times = static_cast<uint64_t *>(reserve(MAX_RESIDENT * MAX_THREADS * STACK_SIZE * 2));
    s.threads = new thread[MAX_RESIDENT * MAX_THREADS]();
}

void protect_device(int protection)
{
    for (const allocation &a : s.allocations) {
        const uintptr_t begin = a.begin / PAGE * PAGE;
        if (mprotect(reinterpret_cast<void *>(begin), a.end - begin, protection)) abort();
    }
}

/*  Fills shared memory with what no kernel expects: NaN in every format.                         */
void start_block(unsigned slot, unsigned number)
{
    block *b = &s.blocks[slot];
    const dim3 g = s.launch.grid, d = s.launch.block_dim;
    b->slot = slot;
    b->number = number;
    b->id = { number % g.x, number / g.x % g.y, number / g.x / g.y };
    b->threads = b->alive = d.x * d.y * d.z;
    b->at_barrier = 0;
    b->predicate = b->result = 0;
    b->epoch = b->first_epoch = ++s.epochs;
    b->epoch_time = ++s.time;
    b->partial = false;
    b->mbarriers.clear();
    b->barriers.clear();
    b->has_fenced = false;
    b->met = b->acquired = 0;
    b->shared = s.shared + slot * SHARED_GAP + s.launch.shared_offset;
    b->bytes = s.shared_bytes + slot * SHARED_SIZE;
    b->read_times = s.read_times + slot * SHARED_SIZE / 4;
    memset(b->shared, 0xff, s.launch.shared_bytes);
    for (size_t i = 0; i < s.launch.shared_bytes; i++) {
        b->bytes[i].in_flight = false;
        b->bytes[i].wgmma_reads = 0;
    }
    const unsigned warps = (b->threads + LANES - 1) / LANES;
    b->warps.assign(warps, warp());
    b->wgmmas.assign((warps + 3) / 4, { });
    std::vector<unsigned> order(warps);
    for (unsigned w = 0; w < warps; w++) {
        order[w] = w;
        b->warps[w].size = std::min(LANES, b->threads - w * LANES);
        b->warps[w].groups.assign(1, { });
    }
    std::shuffle(order.begin(), order.end(), s.random);
    b->runnable.clear();
    b->spinning.clear();
    for (unsigned w : order) {
        for (unsigned i = 0; i < b->warps[w].size; i++) {
            const unsigned lane = s.launch.reversed ? b->warps[w].size - 1 - i : i;
            thread *t = thread_of(b, w * LANES + lane);
            t->index = w * LANES + lane;
            t->id = { t->index % d.x, t->index / d.x % d.y, t->index / d.x / d.y };
            t->exited = false;
            t->fenced = t->fenced_of_step = t->fence_epoch = 0;
            t->waits_for = nullptr;
            t->groups.assign(1, { });
            t->knows.epoch = 0;
            t->proxy_fence = t->proxy_fence_of_step = t->proxy_fence_of_epoch = t->wgmma_fence = 0;
            t->lent.clear();
            b->runnable.push_back(t);
        }
    }
    counted.blocks++;
}

/*  The four warps of a warpgroup issue the same wgmma, one after the other.                      */
void check_wgmmas()
{
    const auto &log = s.block_now->wgmmas[s.thread_now->index / LANES / 4];
    if (warp_now()->wgmmas == log.size()) return;
    fail(nullptr, "a warp leaves after %zu of %zu wgmmas of its warpgroup", warp_now()->wgmmas,
         log.size());
}

void finish_thread()
{
    block *b = s.block_now;
    thread *self = s.thread_now;
    if (!self->lent.empty()) fail(nullptr, "a thread leaves with a wgmma that was not waited for");
    check_wgmmas();
    self->exited = true;
    s.progress++;
    b->alive--;
    warp_now()->exited |= 1u << lane_now();
    if (b->at_barrier) {
        fail(nullptr, "a thread leaves while others wait at %s of line %d", b->barrier,
             b->barrier_line);
    }
    for (const gathering &g : warp_now()->open) {
        if (g.mask >> lane_now() & 1) {
            fail(nullptr, "a lane leaves while others wait for it at %s of line %d", g.what, g.line);
        }
    }
    yield();
}

void report_deadlock(const block *b)
{
    s.finding = "deadlock:";
    for (unsigned i = 0; i < b->threads && s.finding.size() < 300; i++) {
        const thread *t = thread_of(b, i);
        if (t->exited || (i && t->waits_for == t[-1].waits_for && t->line == t[-1].line)) continue;
        char text[96];
        snprintf(text, sizeof text, " from thread %u on: %s of line %d;", i,
                 t->waits_for ? t->waits_for : "spinning", t->line);
        s.finding += text;
    }
}

/*  Runs a block until it is done, or all that can run in it only spin.                           */
void run_block(block *b)
{
    s.block_now = b;
    cuda_emu::registers.block = b->id;
    cuda_emu::registers.shared = b->shared;
    b->runnable.insert(b->runnable.end(), b->spinning.begin(), b->spinning.end());
    b->spinning.clear();
    if (_setjmp(s.scheduler) == 0) {
        thread *first = b->runnable.front();
        b->runnable.pop_front();
        resume(first);
    }
    if (s.finding.empty() && b->alive && b->spinning.empty()) report_deadlock(b);
}

/*  One of the next blocks, of those that hardware may have started by now.                       */
unsigned next_block(std::deque<unsigned> *waiting, size_t begin_before)
{
    size_t choices = 0;
    while (choices < waiting->size() && (*waiting)[choices] < begin_before) choices++;
    const auto chosen = waiting->begin() + long(s.random() % choices);
    const unsigned number = *chosen;
    waiting->erase(chosen);
    return number;
}

/*  All blocks; one that spins lets another start, as long as the device has room.                */
void run_grid()
{
    const unsigned room = std::min(unsigned(config.resident_blocks), MAX_RESIDENT);
    const unsigned blocks = s.launch.grid.x * s.launch.grid.y * s.launch.grid.z;
    std::deque<unsigned> waiting;
    std::deque<block *> resident;
    std::vector<unsigned> free_slots;
    for (unsigned i = 0; i < blocks; i++) waiting.push_back(i);
    for (unsigned i = 0; i < room; i++) free_slots.push_back(i);
    unsigned idle = 0;
    while (s.finding.empty() && (!waiting.empty() || !resident.empty())) {
        if (!waiting.empty() && !free_slots.empty()) {
            const size_t done = blocks - waiting.size() - resident.size();
            start_block(free_slots.back(), next_block(&waiting, done + room));
            resident.push_front(&s.blocks[free_slots.back()]);
            free_slots.pop_back();
        }
        block *b = resident.front();
        const uint32_t before = s.progress;
        resident.pop_front();
        run_block(b);
        if (b->alive) resident.push_back(b);
        else free_slots.push_back(b->slot);
        idle = s.progress == before ? idle + 1 : 0;
        if (idle > 4 * room && s.finding.empty()) report_deadlock(b);
    }
}

cudaError_t check_launch(const cuda_emu::work &what, dim3 grid, dim3 dim, size_t shared_bytes)
{
    const size_t threads = size_t(dim.x) * dim.y * dim.z;
    if (!threads || threads > MAX_THREADS || dim.z > 64) return cudaErrorInvalidConfiguration;
    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535u
        || grid.z > 65535u) {
        return cudaErrorInvalidConfiguration;
    }
    const auto limit = s.shared_limit.find(what.kernel);
    const size_t allowed = limit == s.shared_limit.end() ? 48 * 1024 : size_t(limit->second);
    return shared_bytes > std::max(allowed, size_t(48 * 1024)) ? cudaErrorInvalidValue : cudaSuccess;
}

void check_stream(const void *stream, const char *what)
{
    if (stream == expected_stream || !s.finding.empty()) return;
    s.finding = std::string(what) + " on another stream than the caller's";
}

}   /* namespace */

void cuda_emu::launch(const work &what, dim3 grid, dim3 block_dim, size_t shared_bytes,
                      cudaStream_t stream)
{
    prepare_once();
    check_stream(stream, "launch");
    if (!s.finding.empty()) return;
    if (s.launches_until_failure && --s.launches_until_failure == 0) s.error = s.failure;
    else s.error = check_launch(what, grid, block_dim, shared_bytes);
    if (s.error != cudaSuccess) return;
    const unsigned blocks = grid.x * grid.y * grid.z;
    s.launches++;
    counted.launches++;
    s.launch = { what, grid, block_dim, shared_bytes, s.random() % 8 * 128, (s.random() & 1) != 0,
                 (s.random() & 1) != 0 };
    s.in_atomic = false;
    std::vector<std::vector<release>> releases(blocks);
    s.published = releases.data();
    registers.block_dim = block_dim;
    registers.grid_dim = grid;
    protect_device(PROT_READ | PROT_WRITE);
    run_grid();
    protect_device(PROT_NONE);
    if (!s.finding.empty()) {       /* fibers of the broken launch are somewhere inside it */
        for (unsigned i = 0; i < MAX_RESIDENT * MAX_THREADS; i++) s.threads[i].started = false;
        s.error = cudaErrorLaunchFailure;
    }
    s.thread_now = nullptr;
}

/* ---- the host's side ------------------------------------------------------------------------- */

cudaError_t cudaPeekAtLastError() { return s.error; }
cudaError_t cudaGetLastError()
{
    const cudaError_t error = s.error;
    s.error = cudaSuccess;
    return error;
}
const char *cudaGetErrorString(cudaError_t error) { return error ? "an error" : "no error"; }
cudaError_t cudaGetDevice(int *which) { *which = 0; return cudaSuccess; }

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int)
{
    switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlock:     *value = 48 * 1024; break;
    case cudaDevAttrMultiProcessorCount:         *value = config.multiprocessors; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrComputeCapabilityMajor:      *value = config.major; break;
    case cudaDevAttrComputeCapabilityMinor:      *value = config.minor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = config.shared_per_block_optin; break;
    default: return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}

cudaError_t cuda_emu::set_function_attribute(const void *kernel, cudaFuncAttribute attribute,
                                             int value)
{
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value > config.shared_per_block_optin) return s.error = cudaErrorInvalidValue;
    s.shared_limit[kernel] = value;
    return cudaSuccess;
}

cudaError_t cuda_emu::function_attributes(cudaFuncAttributes *attributes)
{
    *attributes = { };
    attributes->maxThreadsPerBlock = int(MAX_THREADS);
    attributes->numRegs = config.registers;
    attributes->binaryVersion = attributes->ptxVersion = config.major * 10 + config.minor;
    return config.has_code ? cudaSuccess : cudaErrorNoKernelImageForDevice;
}

cudaError_t cuda_emu::occupancy(int *blocks, int threads, size_t shared_bytes)
{
    const size_t by_shared = shared_bytes ? size_t(config.shared_per_block_optin) / shared_bytes : 32;
    *blocks = int(std::min(by_shared, size_t(2048 / threads)));
    return cudaSuccess;
}

namespace {

void host_access(const void *address, size_t size, bool write)
{
    allocation *a = find_allocation(uintptr_t(address), size);
    if (!a) return;
    const size_t offset = uintptr_t(address) - a->begin;
    for (size_t i = offset; i < offset + size; i++) {
        if (write) a->initialised[i] = a->written[i] = 1;
        else if (!a->initialised[i] && s.finding.empty()) s.finding = "copy of uninitialised memory";
    }
}

}   /* namespace */

cudaError_t cudaMemsetAsync(void *to, int value, size_t size, cudaStream_t stream)
{
    check_stream(stream, "cudaMemsetAsync");
    if (!find_allocation(uintptr_t(to), size)) return s.error = cudaErrorInvalidValue;
    host_access(to, size, true);
    protect_device(PROT_READ | PROT_WRITE);
    memset(to, value, size);
    protect_device(PROT_NONE);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind,
                            cudaStream_t stream)
{
    check_stream(stream, "cudaMemcpyAsync");
    host_access(from, size, false);
    host_access(to, size, true);
    protect_device(PROT_READ | PROT_WRITE);
    memcpy(to, from, size);
    protect_device(PROT_NONE);
    return cudaSuccess;
}

/* ---- collectives that kernels call ----------------------------------------------------------- */

void __syncthreads(int line)
{
    if (!removed(BARRIER, line)) arrive_at_barrier("__syncthreads", 0, line);
}

namespace {

/*  What all lanes of a warp know after a __syncwarp.                                             */
void share_knowledge()
{
    warp *w = warp_now();
    const unsigned first = s.thread_now->index - lane_now();
    w->step++;
    w->step_time = ++s.time;
    knowledge all = { };
    for (unsigned i = 0; i < w->size; i++) {
        thread *t = thread_of(s.block_now, first + i);
        t->proxy_fence_of_step = t->proxy_fence;
        t->fenced_of_step = t->fenced;
        if (w->learned) learn(&all, t->knows);
    }
    for (unsigned i = 0; w->learned && i < w->size; i++) {
        thread_of(s.block_now, first + i)->knows = all;
    }
    w->learned = false;
}

}   /* namespace */

int __syncthreads_or(int predicate, int line)
{
    return arrive_at_barrier("__syncthreads_or", predicate, line);
}

void __syncwarp(unsigned mask, int line)
{
    if (removed(WARP_BARRIER, line)) return;
    if (mask == ~0u) mask = full_mask();
    const bool orders = mask == full_mask();
    converge("__syncwarp", mask, line, nullptr,
             [orders](void *const *) { if (orders) share_knowledge(); });
}

unsigned __activemask() { return full_mask() & ~warp_now()->exited; }

namespace {

struct shuffled { uint64_t value, result; int operand; };

unsigned shuffle_source(cuda_emu::shuffle how, unsigned lane, int operand, int width)
{
    const unsigned segment = lane & ~unsigned(width - 1), last = segment + unsigned(width) - 1;
    switch (how) {
    case cuda_emu::INDEX: return segment + (unsigned(operand) & unsigned(width - 1));
    case cuda_emu::UP:    return int(lane) - operand < int(segment) ? lane : lane - unsigned(operand);
    case cuda_emu::DOWN:  return lane + unsigned(operand) > last ? lane : lane + unsigned(operand);
    default:              return (lane ^ unsigned(operand)) > last ? lane : lane ^ unsigned(operand);
    }
}

}   /* namespace */

uint64_t cuda_emu::exchange(shuffle how, unsigned mask, uint64_t value, int operand, int width,
                            int line)
{
    static const char *const names[] = { "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync",
                                         "__shfl_xor_sync" };
    shuffled mine = { value, 0, operand };
    if (mask == ~0u) mask = full_mask();
    converge(names[how], mask, line, &mine, [=](void *const *operands) {
        for (unsigned lane = 0; lane < LANES; lane++) {
            if (!(mask >> lane & 1)) continue;
            shuffled *to = static_cast<shuffled *>(operands[lane]);
            const unsigned from = shuffle_source(how, lane, to->operand, width);
            if (!(mask >> from & 1)) {
                fail(nullptr, "line %d: a shuffle reads lane %u, which takes no part", line, from);
            }
            to->result = static_cast<shuffled *>(operands[from])->value;
        }
    });
    return mine.result;
}

unsigned cuda_emu::vote(unsigned mask, bool predicate, int line)
{
    struct ballot { bool mine; unsigned all; } b = { predicate, 0 };
    if (mask == ~0u) mask = full_mask();
    converge("a vote", mask, line, &b, [=](void *const *operands) {
        unsigned all = 0;
        for (unsigned lane = 0; lane < LANES; lane++) {
            if (mask >> lane & 1 && static_cast<ballot *>(operands[lane])->mine) all |= 1u << lane;
        }
        for (unsigned lane = 0; lane < LANES; lane++) {
            if (mask >> lane & 1) static_cast<ballot *>(operands[lane])->all = all;
        }
    });
    return b.all;
}

/* ---- fences and atomics ---------------------------------------------------------------------- */

namespace {

void fence()
{
    thread *self = s.thread_now;
    self->fenced = ++s.time;
    self->fence_epoch = s.block_now->epoch;
    s.block_now->has_fenced = true;
    s.block_now->acquired = s.block_now->met;
}

}   /* namespace */

void __threadfence(int line)
{
    if (!removed(FENCE, line)) fence();
}
void __threadfence_block() { }

namespace {

/*  An atomic: publishes what was fenced, and meets what others have published.                   */
void meet()
{
    block *b = s.block_now;
    b->met = ++s.time;
    s.progress++;
    if (!b->has_fenced) return;
    release r = { b->met, 0, std::vector<uint64_t>(b->threads, 0) };
    const knowledge &k = s.thread_now->knows;
    for (unsigned i = 0; i < b->threads; i++) {
        const thread *t = thread_of(b, i);
        if (k.epoch == b->epoch) r.until[i] = k.fenced[i];
        if (t != s.thread_now && t->fence_epoch >= b->epoch) continue;
        r.until[i] = t->fenced;
        r.epochs_until = std::max(r.epochs_until, t->fence_epoch);
    }
    s.published[b->number].push_back(r);
}

}   /* namespace */

void cuda_emu::atomic_begin(const void *address, size_t size, const void *caller)
{
    if (uintptr_t(address) % size) fail(caller, "misaligned atomic of %zu bytes", size);
    if (in_shared(uintptr_t(address))) {
        shared_byte *b = shared_range(uintptr_t(address), size, caller);
        for (size_t i = 0; i < size; i++) {
            if (b[i].write_epoch < s.block_now->first_epoch) {
                fail(caller, "atomic on shared memory that was never written");
            }
        }
    } else {
        allocation *a = find_allocation(uintptr_t(address), size);
        if (!a) fail(caller, "atomic outside every buffer of the device");
        read_global(a, uintptr_t(address), size, true, caller);
        write_global(a, uintptr_t(address), size, true, caller);
        meet();
    }
    s.in_atomic = true;
}

void cuda_emu::atomic_end() { s.in_atomic = false; }

unsigned cuda_emu::load_acquire(const unsigned *from, const void *caller)
{
    allocation *a = find_allocation(uintptr_t(from), sizeof *from);
    if (!a) fail(caller, "load_acquire outside every buffer of the device");
    s.block_now->spinning.push_back(s.thread_now);
    yield();
    read_global(a, uintptr_t(from), sizeof *from, true, caller);
    s.block_now->acquired = ++s.time;
    return *from;
}

void cuda_emu::store_release(unsigned *to, unsigned value, const void *caller)
{
    allocation *a = find_allocation(uintptr_t(to), sizeof *to);
    if (!a) fail(caller, "store_release outside every buffer of the device");
    fence();
    write_global(a, uintptr_t(to), sizeof *to, true, caller);
    meet();
    *to = value;
}

/* ---- cp.async -------------------------------------------------------------------------------- */

void cuda_emu::copy_async(void *shared, const void *global, unsigned valid_bytes, const void *caller)
{
    if (uintptr_t(shared) % 16) fail(caller, "cp.async to a misaligned address");
    if (uintptr_t(global) % 16) fail(caller, "cp.async from a misaligned address");
    if (valid_bytes > 16) fail(caller, "cp.async of %u bytes", valid_bytes);
    if (!in_shared(uintptr_t(shared))) fail(caller, "cp.async to what is not shared memory");
    if (valid_bytes) {
        const allocation *a = find_allocation(uintptr_t(global), valid_bytes);
        if (!a) fail(caller, "cp.async from outside every buffer of the device");
        read_global(a, uintptr_t(global), valid_bytes, false, caller);
    }
    check_write_shared(uintptr_t(shared), 16, caller);
    shared_byte *b = shared_range(uintptr_t(shared), 16, caller);
    for (int i = 0; i < 16; i++) b[i].in_flight = true;
    s.thread_now->groups.back().push_back({ static_cast<unsigned char *>(shared),
                                            static_cast<const unsigned char *>(global), valid_bytes,
                                            caller });
    counted.cp_async++;
}

void cuda_emu::copy_async_commit() { s.thread_now->groups.push_back({ }); }

void cuda_emu::copy_async_wait(int left_pending, int line)
{
    if (removed(COPY_WAIT, line)) return;
    auto &groups = s.thread_now->groups;
    while (groups.size() > size_t(left_pending) + 1) {
        for (const copy &c : groups.front()) {
            memset(c.to, 0, 16);
            memcpy(c.to, c.from, c.valid);
            shared_byte *b = shared_range(uintptr_t(c.to), 16, c.caller);
            for (int i = 0; i < 16; i++) {
                b[i].in_flight = false;
                note_writer(b + i);
            }
        }
        groups.erase(groups.begin());
    }
}

/* ---- matrices -------------------------------------------------------------------------------- */

namespace {

struct matrix_rows { unsigned *r; const unsigned char *row; };

/*  A row is 16 bytes, one eighth of all banks; the eight rows of a matrix are read at once.      */
void count_conflicts(void *const *lanes, int matrix)
{
    unsigned used = 0;
    for (int i = 0; i < 8; i++) {
        const matrix_rows *at = static_cast<matrix_rows *>(lanes[matrix * 8 + i]);
        const unsigned eighth = 1u << (uintptr_t(at->row) / 16 % 8);
        if (used & eighth) counted.ldmatrix_conflicts++;
        used |= eighth;
    }
}

void distribute(void *const *lanes, int matrix, bool transposed)
{
    for (unsigned lane = 0; lane < LANES; lane++) {
        uint16_t pair[2];
        for (unsigned i = 0; i < 2; i++) {
            const unsigned long_side = lane / 4, short_side = lane % 4 * 2 + i;
            const unsigned row = transposed ? short_side : long_side;
            const unsigned col = transposed ? long_side : short_side;
            const matrix_rows *from = static_cast<matrix_rows *>(lanes[unsigned(matrix) * 8 + row]);
            memcpy(&pair[i], from->row + 2 * col, 2);
        }
        memcpy(&static_cast<matrix_rows *>(lanes[lane])->r[matrix], pair, 4);
    }
}

}   /* namespace */

void cuda_emu::load_matrices(unsigned *r, const void *row, int count, bool transposed, int line,
                             const void *caller)
{
    if (lane_now() < unsigned(count) * 8) {     /* the other lanes' addresses are not used */
        if (uintptr_t(row) % 16) fail(caller, "ldmatrix from a misaligned address");
        if (!in_shared(uintptr_t(row))) fail(caller, "ldmatrix from what is not shared memory");
        read_shared(uintptr_t(row), 16, caller);
    }
    matrix_rows mine = { r, static_cast<const unsigned char *>(row) };
    converge("ldmatrix", ~0u, line, &mine, [=](void *const *lanes) {
        counted.ldmatrix++;
        for (int i = 0; i < count; i++) {
            count_conflicts(lanes, i);
            distribute(lanes, i, transposed);
        }
    });
}

namespace {

struct mma_operands { float *d; const unsigned *a, *b; };

int exponent_of(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, 8);
    return int(bits >> 52 & 0x7ff) - 1023;
}

double power_of_two(int exponent)
{
    const uint64_t bits = uint64_t(exponent + 1023) << 52;
    double x;
    memcpy(&x, &bits, 8);
    return x;
}

/*  c + sum of 8 products as tensor cores do it: aligned to the largest term, cut off after 24 bits
    and one more, summed, cut off to fp32 (Fasi, Higham, Mikaitis, Pranesh 2021).                 */
float sum_products(const float *a, const float *b, float c)
{
    double term[9], largest = 0;
    for (int i = 0; i < 8; i++) term[i] = double(a[i]) * double(b[i]);
    term[8] = double(c);
    for (double t : term) largest = std::max(largest, std::fabs(t));
    double plain = 0;
    for (double t : term) plain += t;
    if (largest == 0 || !std::isfinite(plain)) return float(plain);
    const int top = exponent_of(largest);
    const double scale = power_of_two(24 - top), unit = power_of_two(top - 24);
    int64_t sum = 0;
    for (double t : term) sum += int64_t(t * scale);
    double result = double(sum) * unit;
    uint64_t bits;
    memcpy(&bits, &result, 8);
    bits &= ~uint64_t(0) << 29;
    memcpy(&result, &bits, 8);
    return float(result);
}

float element_of(const unsigned *registers, unsigned which, unsigned half_of_it,
                 float (*widen)(uint16_t))
{
    return widen(uint16_t(registers[which] >> (16 * half_of_it)));
}

/*  PTX ISA, fragments of mma.m16n8k8 and .m16n8k16: with g = lane / 4 and t = lane % 4, register i
    of a lane holds columns 2 t, 2 t + 1 (+ 8 for i >= 2) of row g (+ 8 for odd i) of A; of B, rows
    2 t, 2 t + 1 (+ 8 for i = 1) of column g; of D, columns 2 t, 2 t + 1 of row g (+ 8 for i >= 2). */
void multiply_all(void *const *lanes, unsigned depth, float (*widen)(uint16_t))
{
    float a[16][16], b[8][16];
    for (unsigned lane = 0; lane < LANES; lane++) {
        const mma_operands *o = static_cast<mma_operands *>(lanes[lane]);
        const unsigned g = lane / 4, t = lane % 4 * 2;
        for (unsigned k = 0; k < depth; k += 8) {
            for (unsigned i = 0; i < 2; i++) {
                a[g][k + t + i] = element_of(o->a, k / 4, i, widen);
                a[g + 8][k + t + i] = element_of(o->a, k / 4 + 1, i, widen);
                b[g][k + t + i] = element_of(o->b, k / 8, i, widen);
            }
        }
    }
    for (unsigned lane = 0; lane < LANES; lane++) {
        float *d = static_cast<mma_operands *>(lanes[lane])->d;
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = lane / 4 + (i >= 2 ? 8 : 0), col = lane % 4 * 2 + i % 2;
            for (unsigned k = 0; k < depth; k += 8) d[i] = sum_products(a[row] + k, b[col] + k, d[i]);
        }
    }
}

}   /* namespace */

void cuda_emu::multiply(mma_shape shape, float (*widen)(uint16_t), float *d, const unsigned *a,
                        const unsigned *b, int line)
{
    mma_operands mine = { d, a, b };
    const unsigned depth = shape == M16N8K16 ? 16 : 8;
    converge("mma", ~0u, line, &mine, [=](void *const *lanes) {
        counted.mma++;
        multiply_all(lanes, depth, widen);
    });
}

/* ---- barriers of some threads ---------------------------------------------------------------- */

unsigned cuda_emu::shared_address(const void *shared)
{
    return unsigned(uintptr_t(shared) - uintptr_t(s.block_now->shared)) + FIRST_ADDRESS
         + unsigned(s.launch.shared_offset);
}

/*  bar.sync: of all threads, or of some, who come to know of one another.                        */
void cuda_emu::barrier(unsigned id, unsigned threads, int line)
{
    block *b = s.block_now;
    if (removed(BARRIER, line)) return;
    if (id > 15 || threads % LANES) fail(nullptr, "line %d: barrier %u of %u threads", line, id, threads);
    if (threads == b->threads) {
        arrive_at_barrier("barrier", 0, line);
        return;
    }
    b->partial = true;
    block::partial_barrier &p = b->barriers[id];
    if (p.arrived.empty()) p = { threads, line, { } };
    if (p.threads != threads || p.line != line) {
        fail(nullptr, "divergent: barrier %u of line %d while others wait at line %d", id, line, p.line);
    }
    p.arrived.push_back(s.thread_now);
    s.thread_now->waits_for = "barrier";
    s.thread_now->line = line;
    if (p.arrived.size() < threads) {
        yield();
        return;
    }
    std::vector<thread *> all;
    all.swap(p.arrived);
    thread *const self = s.thread_now;
    knowledge k = { };
    for (thread *t : all) {
        s.thread_now = t;
        publish(&k);
    }
    s.thread_now = self;
    learn(&k, k);
    for (thread *t : all) {
        t->knows = k;
        b->warps[t->index / LANES].learned = true;
        wake(t);
    }
}

namespace {

mbarrier *find_mbarrier(uint64_t *address, const void *caller)
{
    const auto found = s.block_now->mbarriers.find(uintptr_t(address));
    if (found == s.block_now->mbarriers.end()) fail(caller, "no mbarrier was initialised here");
    const shared_byte *b = shared_range(uintptr_t(address), 8, caller);
    if (!ordered(b->writer, b->write_epoch, b->write_step, b->write_time)) {
        fail(caller, "race: use of an mbarrier, initialised by thread %u with no barrier since",
             unsigned(b->writer));
    }
    return &found->second;
}

void learn_now(const knowledge &from)
{
    learn(&s.thread_now->knows, from);
    warp_now()->learned = true;
}

}   /* namespace */

void cuda_emu::mbarrier_init(uint64_t *barrier, unsigned count, const void *caller)
{
    if (uintptr_t(barrier) % 8) fail(caller, "misaligned mbarrier");
    if (!in_shared(uintptr_t(barrier))) fail(caller, "an mbarrier that is not in shared memory");
    write_shared(uintptr_t(barrier), 8, caller);
    s.block_now->partial = true;
    s.block_now->mbarriers[uintptr_t(barrier)] = { count, 0, 0, { }, { }, { } };
}

void cuda_emu::mbarrier_arrive(uint64_t *barrier, int line, const void *caller)
{
    if (removed(MBARRIER_ARRIVE, line)) return;
    mbarrier *m = find_mbarrier(barrier, caller);
    publish(&m->coming);
    s.progress++;
    if (++m->arrived < m->count) return;
    learn(&m->complete, m->coming);
    m->coming = { };
    m->arrived = 0;
    m->parity ^= 1;
    std::vector<thread *> waiting;
    waiting.swap(m->waiting);
    for (thread *t : waiting) wake(t);
}

void cuda_emu::mbarrier_wait(uint64_t *barrier, unsigned parity, int line, const void *caller)
{
    if (removed(MBARRIER_WAIT, line)) return;
    mbarrier *m = find_mbarrier(barrier, caller);
    while (m->parity == parity) {
        m->waiting.push_back(s.thread_now);
        s.thread_now->waits_for = "mbarrier";
        s.thread_now->line = line;
        yield();
    }
    learn_now(m->complete);
}

void cuda_emu::proxy_fence(int line)
{
    if (!removed(PROXY_FENCE, line)) s.thread_now->proxy_fence = ++s.time;
}

/* ---- wgmma ----------------------------------------------------------------------------------- */

namespace {

/*  PTX ISA, matrix descriptor: bits 0-13 the address, 16-29 the leading and 32-45 the stride byte
    offset, all / 16; 49-51 the base offset; 62-63 the swizzling mode.
    For an operand that is contiguous along k: 8 columns are an atom, its rows of 128, 64 or 32 bytes
    (modes 1, 2, 3), whose 16-byte chunks are exchanged by bits 7.. of the address; atoms are a stride
    apart. Mode 0: 8 columns x 16 bytes follow one another, the next along k a leading offset apart. */
struct matrix {
    size_t start, leading, stride, row;
    unsigned chunks;
};

matrix matrix_of(uint64_t descriptor)
{
    static const size_t rows[] = { 16, 128, 64, 32 };
    const unsigned mode = unsigned(descriptor >> 62);
    if (descriptor >> 46 & 0xffff) fail(nullptr, "wgmma: a base offset, or bits that must be 0");
    const matrix m = { size_t(descriptor & 0x3fff) * 16, size_t(descriptor >> 16 & 0x3fff) * 16,
                       size_t(descriptor >> 32 & 0x3fff) * 16, rows[mode], unsigned(rows[mode] / 16) };
    if (mode && (m.start & (8 * m.row - 1)) >= m.row) {
        fail(nullptr, "wgmma: a swizzled operand begins at %zu, not in the first row of an atom", m.start);
    }
    return m;
}

/*  Where the 16 bytes of a column of the operand are: inputs 0..7 (half 0) or 8..15.             */
uintptr_t chunk_address(const matrix &m, unsigned column, unsigned half)
{
    size_t at = m.start + column / 8 * m.stride + column % 8 * m.row;
    at += half * (m.chunks == 1 ? m.leading : 16);
    at ^= (at >> 7 & (m.chunks - 1)) << 4;
    return uintptr_t(s.block_now->shared) + at - FIRST_ADDRESS - s.launch.shared_offset;
}

/*  Whether what a thread wrote was fenced, by itself, before this one came to know of it.         */
bool is_fenced(const shared_byte &b)
{
    const thread *self = s.thread_now, *writer = thread_of(s.block_now, b.writer);
    if (writer == self) return self->proxy_fence > b.write_time;
    if (b.write_epoch != s.block_now->epoch) return writer->proxy_fence_of_epoch > b.write_time;
    const bool learned = self->knows.epoch == s.block_now->epoch;
    uint64_t fenced = learned ? self->knows.proxy_fenced[b.writer] : 0;
    if (b.writer / LANES == self->index / LANES) fenced = std::max(fenced, writer->proxy_fence_of_step);
    return fenced > b.write_time;
}

bool same_write(const shared_byte &a, const shared_byte &b)
{
    return a.write_time == b.write_time && a.writer == b.writer && a.write_step == b.write_step
        && a.write_epoch == b.write_epoch && a.in_flight == b.in_flight;
}

void begin_reading(const wgmma_share &share)
{
    const matrix m = matrix_of(share.descriptor);
    for (unsigned i = 0; i < share.columns * 2; i++) {
        const uintptr_t address = chunk_address(m, i / 2, i % 2);
        if (!in_shared(address)) fail(nullptr, "wgmma: an operand outside shared memory");
        shared_byte *b = shared_range(address, 16, nullptr);
        for (unsigned j = 0; j < 16; j++) {
            b[j].wgmma_reads++;
            if (j && same_write(b[j], b[j - 1])) continue;
            read_shared(address + j, 1, nullptr);
            if (is_fenced(b[j])) continue;
            fail(nullptr, "wgmma reads shared byte %zu, written by thread %u with no "
                 "fence.proxy.async since", size_t(b + j - s.block_now->bytes), unsigned(b[j].writer));
        }
    }
}

lent_registers *find_lent(thread *t, const void *begin)
{
    for (lent_registers &l : t->lent) if (l.begin == begin) return &l;
    return nullptr;
}

/*  A lane gives registers away: it has fenced its writes to them, or a wgmma has them already as
    sums of the same shape.                                                                       */
void lend(thread *t, const void *begin, size_t size, bool are_sums)
{
    lent_registers *l = find_lent(t, begin);
    if (l && (l->size != size || are_sums == l->sums.empty())) {
        fail(nullptr, "wgmma: registers that another wgmma has for another use");
    }
    if (l) {
        l->uses++;
        return;
    }
    for (const lent_registers &other : t->lent) {
        if (uintptr_t(begin) + size <= uintptr_t(other.begin)) continue;
        if (uintptr_t(begin) >= uintptr_t(other.begin) + other.size) continue;
        fail(nullptr, "wgmma: registers that another wgmma has in part");
    }
    const size_t first = (uintptr_t(begin) - uintptr_t(s.stacks)) / 4;
    for (size_t i = 0; i < size / 4; i++) {
        if (s.private_times[first + i] < t->wgmma_fence) continue;
        fail(nullptr, "wgmma: registers written with no wgmma.fence since");
    }
    t->lent.push_back({ begin, size, 1, { } });
    if (!are_sums) return;
    const float *sums = static_cast<const float *>(begin);
    t->lent.back().sums.assign(sums, sums + size / 4);
}

void give_back(thread *t, const void *begin)
{
    lent_registers *l = find_lent(t, begin);
    if (--l->uses) return;
    if (!l->sums.empty()) memcpy(const_cast<void *>(begin), l->sums.data(), l->size);
    t->lent.erase(t->lent.begin() + (l - t->lent.data()));
}

void read_column(const wgmma_share &share, const matrix &m, unsigned column, float *b)
{
    for (unsigned half = 0; half < 2; half++) {
        uint16_t bits[8];
        memcpy(bits, reinterpret_cast<const void *>(chunk_address(m, column, half)), 16);
        for (unsigned i = 0; i < 8; i++) b[half * 8 + i] = share.widen(bits[i]);
    }
}

/*  PTX ISA, fragments of wgmma.m64nNk16: a warp has 16 of the rows, A as in mma.m16n8k16; register
    4 j + i of D is register i of the columns 8 j .. 8 j + 7 of mma's.                            */
void multiply_share(const wgmma_share &share, thread *const *lanes)
{
    const matrix m = matrix_of(share.descriptor);
    float a[16][16], b[16];
    bool finite = true;
    for (unsigned lane = 0; lane < LANES; lane++) {
        for (unsigned i = 0; i < 8; i++) {
            float *to = &a[lane / 4 + i / 2 % 2 * 8][lane % 4 * 2 + i / 4 * 8 + i % 2];
            *to = element_of(share.a[lane], i / 2, i % 2, share.widen);
            finite = finite && std::isfinite(*to);
        }
    }
    for (unsigned column = 0; column < share.columns; column++) {
        read_column(share, m, column, b);
        if (finite && std::all_of(b, b + 16, [](float x) { return x == 0; })) continue;
        for (unsigned row = 0; row < 16; row++) {
            thread *t = lanes[row % 8 * 4 + column % 8 / 2];
            float *d = &find_lent(t, share.d[t->index % LANES])
                            ->sums[column / 8 * 4 + row / 8 * 2 + column % 2];
            for (unsigned k = 0; k < 16; k += 8) *d = sum_products(a[row] + k, b + k, *d);
        }
    }
}

/*  A share is done: sums are there, registers and shared memory are free again.                  */
void complete_share(const wgmma_share &share)
{
    thread *lanes[LANES];
    const unsigned first = s.thread_now->index - lane_now();
    for (unsigned i = 0; i < LANES; i++) lanes[i] = thread_of(s.block_now, first + i);
    multiply_share(share, lanes);
    for (unsigned i = 0; i < LANES; i++) {
        give_back(lanes[i], share.d[i]);
        give_back(lanes[i], share.a[i]);
    }
    const matrix m = matrix_of(share.descriptor);
    for (unsigned i = 0; i < share.columns * 2; i++) {
        shared_byte *b = shared_range(chunk_address(m, i / 2, i % 2), 16, nullptr);
        for (int j = 0; j < 16; j++) {
            b[j].wgmma_reads--;
            note_reader(b + j);
        }
    }
}

void log_wgmma(int line, uint64_t descriptor)
{
    auto &log = s.block_now->wgmmas[s.thread_now->index / LANES / 4];
    const size_t nth = warp_now()->wgmmas++;
    if (nth == log.size()) log.push_back({ line, descriptor });
    if (log[nth] == std::make_pair(line, descriptor)) return;
    fail(nullptr, "the warps of a warpgroup issue different wgmmas: of lines %d and %d", log[nth].first,
         line);
}

}   /* namespace */

void cuda_emu::wgmma_fence(int line)
{
    if (!removed(WGMMA_FENCE, line)) s.thread_now->wgmma_fence = ++s.time;
}

void cuda_emu::wgmma(unsigned columns, float (*widen)(uint16_t), float *d, const unsigned *a,
                     uint64_t descriptor, int line)
{
    mma_operands mine = { d, a, nullptr };
    lend(s.thread_now, d, columns * 2, true);
    lend(s.thread_now, a, 16, false);
    converge("wgmma", ~0u, line, &mine, [=](void *const *lanes) {
        wgmma_share share = { columns, widen, { }, { }, descriptor };
        for (unsigned i = 0; i < LANES; i++) {
            share.d[i] = static_cast<mma_operands *>(lanes[i])->d;
            share.a[i] = static_cast<mma_operands *>(lanes[i])->a;
        }
        log_wgmma(line, descriptor);
        begin_reading(share);
        warp_now()->groups.back().push_back(share);
        counted.wgmma++;
    });
}

void cuda_emu::wgmma_commit(int line)
{
    if (removed(WGMMA_COMMIT, line)) return;
    converge("wgmma.commit_group", ~0u, line, nullptr,
             [](void *const *) { warp_now()->groups.push_back({ }); });
}

void cuda_emu::wgmma_wait(int left_pending, int line)
{
    if (removed(WGMMA_WAIT, line)) return;
    converge("wgmma.wait_group", ~0u, line, nullptr, [=](void *const *) {
        auto &groups = warp_now()->groups;
        while (groups.size() > size_t(left_pending) + 1) {
            for (const wgmma_share &share : groups.front()) complete_share(share);
            groups.erase(groups.begin());
        }
    });
}

/* ---- fp16 and bf16 --------------------------------------------------------------------------- */

namespace {

float widen_f16(uint16_t bits)
{
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float x = exponent == 31 ? (fraction ? NAN : INFINITY)
            : exponent ? ldexpf(float(fraction + 1024), exponent - 25)
            : ldexpf(float(fraction), -24);
    return bits & 0x8000 ? -x : x;
}

struct f16_table {
    float value[65536];
    f16_table() { for (unsigned i = 0; i < 65536; i++) value[i] = widen_f16(uint16_t(i)); }
};

/*  To the nearest multiple of 2^lowest or of a unit in the last of `digits` places, ties to even.
    Adding 1.5 * 2^52 units makes a double drop all that is below one unit.                       */
double round_to(double value, int digits, int lowest)
{
    const int unit = std::max(exponent_of(value) - digits + 1, lowest);
    const double large = 1.5 * power_of_two(52 + unit);
    const double sum = value + large;
    return sum - large;
}

}   /* namespace */

float cuda_emu::f16::widen(uint16_t bits)
{
    static const f16_table table;
    return table.value[bits];
}

uint16_t cuda_emu::f16::narrow(double value)
{
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    if (std::isnan(value)) return 0x7fff;
    const double size = round_to(std::fabs(value), 11, -24);
    if (size >= 65536) return sign | 0x7c00;
    if (size < power_of_two(-14)) return uint16_t(sign | int(size * power_of_two(24)));
    const int exponent = exponent_of(size);
    const int digits = int(size * power_of_two(10 - exponent));
    return uint16_t(sign | ((exponent + 15) << 10) | (digits - 1024));
}

uint16_t cuda_emu::bf16::narrow(double value)
{
    if (std::isnan(value)) return 0x7fff;
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const double size = std::fabs(value) > 1e39 ? INFINITY : round_to(std::fabs(value), 8, -133);
    return uint16_t(sign | __float_as_uint(float(size)) >> 16);
}

/* ---- for tests ------------------------------------------------------------------------------- */

void *emulator::device_alloc(size_t size, size_t offset)
{
    prepare_once();
    return device_place(s.arena + (s.arena_used + 256 + 255) / 256 * 256 + offset, size);
}

void *emulator::device_place(void *address, size_t size)
{
    const uintptr_t begin = uintptr_t(address);
    const size_t end = begin - uintptr_t(s.arena) + size;
    if (end > ARENA_SIZE) abort();
    s.arena_used = std::max(s.arena_used, end);
    allocation a = { begin, begin + size, nullptr, nullptr, nullptr };
    const size_t padded = size + 1;
    a.initialised = static_cast<uint8_t *>(reserve(padded));
    a.written = static_cast<uint8_t *>(reserve(padded));
    a.bytes = static_cast<global_byte *>(reserve(padded * sizeof(global_byte)));
    s.allocations.push_back(a);
    device_fill(address, 0xff, size);
    return address;
}

void emulator::device_write(void *to, const void *from, size_t size)
{
    protect_device(PROT_READ | PROT_WRITE);
    memcpy(to, from, size);
    protect_device(PROT_NONE);
    host_access(to, size, true);
}

void emulator::device_read(void *to, const void *from, size_t size)
{
    protect_device(PROT_READ | PROT_WRITE);
    memcpy(to, from, size);
    protect_device(PROT_NONE);
}

void emulator::device_fill(void *to, int byte, size_t size)
{
    protect_device(PROT_READ | PROT_WRITE);
    memset(to, byte, size);
    protect_device(PROT_NONE);
    const allocation *a = find_allocation(uintptr_t(to), size);
    if (!a) abort();
    const size_t offset = uintptr_t(to) - a->begin;
    memset(a->initialised + offset, 0, size);
    memset(a->written + offset, 0, size);
}

size_t emulator::device_written(const void *from, size_t size)
{
    const allocation *a = find_allocation(uintptr_t(from), size);
    if (!a) abort();
    const uint8_t *written = a->written + (uintptr_t(from) - a->begin);
    return size_t(std::count(written, written + size, 1));
}

void emulator::device_free_all()
{
    for (const allocation &a : s.allocations) {
        const size_t padded = a.end - a.begin + 1;
        munmap(a.initialised, padded);
        munmap(a.written, padded);
        munmap(a.bytes, padded * sizeof(global_byte));
    }
    s.allocations.clear();
    s.arena_used = 0;
}

void emulator::set_seed(uint64_t seed) { s.random.seed(seed); }

void emulator::fail_launch(int nth, int error)
{
    s.launches_until_failure = nth;
    s.failure = static_cast<cudaError_t>(error);
}

std::string emulator::report()
{
    std::string finding;
    finding.swap(s.finding);
    s.error = cudaSuccess;
    return finding;
}

std::vector<site> emulator::sites()
{
    std::vector<site> all;
    for (int kind = 0; kind < SITE_KINDS; kind++) {
        for (int line = 0; line < MAX_LINES; line++) {
            if (s.met[kind][line]) all.push_back({ static_cast<site_kind>(kind), line });
        }
    }
    return all;
}

void emulator::forget_sites() { memset(s.met, 0, sizeof s.met); }
void emulator::remove_site(site which) { s.removed = which; }

const char *emulator::site_name(site_kind kind)
{
    static const char *const names[] = { "barrier", "__syncwarp", "cp.async wait", "__threadfence",
                                         "fence.proxy.async", "mbarrier wait", "mbarrier arrival",
                                         "wgmma.fence", "wgmma.commit_group", "wgmma.wait_group" };
    return names[kind];
}

/* ---- what the compiler calls ----------------------------------------------------------------- */

#define HERE __builtin_return_address(0)
#define ON_ACCESS(name, size, write, aligned)                                                      \
    void name(void *address) { access(uintptr_t(address), size, write, aligned, HERE); }
#define ON_ACCESSES(size)                                                                          \
    ON_ACCESS(__tsan_read##size, size, false, true)                                                \
    ON_ACCESS(__tsan_write##size, size, true, true)                                                \
    ON_ACCESS(__tsan_unaligned_read##size, size, false, false)                                     \
    ON_ACCESS(__tsan_unaligned_write##size, size, true, false)

/*  UBSan's handlers all begin with where it happened.                                            */
struct place { const char *file; uint32_t line, column; };
#define ON_UNDEFINED(name, text)                                                                   \
    void __ubsan_handle_##name(const place *at)                                                    \
    {                                                                                              \
        fail(nullptr, "%s:%u: %s", at->file, unsigned(at->line), text);                            \
    }

extern "C" {
void __tsan_init() { }
void __tsan_func_entry(void *) { }
void __tsan_func_exit() { }
ON_ACCESSES(1)
ON_ACCESSES(2)
ON_ACCESSES(4)
ON_ACCESSES(8)
ON_ACCESSES(16)
void __tsan_read_range(void *a, size_t size) { access(uintptr_t(a), size, false, false, HERE); }
void __tsan_write_range(void *a, size_t size) { access(uintptr_t(a), size, true, false, HERE); }
ON_UNDEFINED(type_mismatch_v1, "a pointer is NULL or not aligned for its type")
ON_UNDEFINED(add_overflow, "signed overflow of +")
ON_UNDEFINED(sub_overflow, "signed overflow of -")
ON_UNDEFINED(mul_overflow, "signed overflow of *")
ON_UNDEFINED(negate_overflow, "signed overflow of unary -")
ON_UNDEFINED(divrem_overflow, "division by zero, or its overflow")
ON_UNDEFINED(shift_out_of_bounds, "shift by too much")
ON_UNDEFINED(out_of_bounds, "index outside its array")
ON_UNDEFINED(load_invalid_value, "a value its type does not have")
}
