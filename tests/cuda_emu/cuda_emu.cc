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
const size_t ARENA_SIZE = size_t(64) << 30;

/* ---- state ----------------------------------------------------------------------------------- */

/*  Who wrote or read a byte of shared memory last. An epoch is one block's time between two
    barriers and never comes back; a step is one warp's time between two __syncwarp.              */
struct shared_byte {
    uint32_t write_epoch, write_step, read_epoch, read_step;
    uint16_t writer, reader;
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
    bool has_fenced;
    uint64_t met, acquired;         /* times of its last atomic, and of that before its last fence */
    std::vector<release> releases;
    std::vector<warp> warps;
    std::deque<thread *> runnable;
    std::vector<thread *> spinning;     /* until other blocks have run */
    unsigned char *shared;
    shared_byte *bytes;
};

struct launch_state {
    cuda_emu::work what;
    dim3 grid, block_dim;
    size_t shared_bytes;
    bool eager;                 /* a warp goes on until it waits for other warps */
    bool reversed;              /* lanes from the last to the first */
};

struct {
    unsigned char *stacks, *shared, *arena;
    size_t arena_used;
    shared_byte *shared_bytes;
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
    bool met[4][MAX_LINES];
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

/* ---- shared memory --------------------------------------------------------------------------- */

bool in_shared(uintptr_t address)
{
    return address - uintptr_t(s.block_now->shared) < SHARED_SIZE;
}

/*  Whether what another thread did at (epoch, step) comes before now.                            */
bool ordered(unsigned other, uint32_t epoch, uint32_t step)
{
    if (other == s.thread_now->index || epoch != s.block_now->epoch) return true;
    return other / LANES == s.thread_now->index / LANES && step != warp_now()->step;
}

/*  Whether all reads since the last barrier come before now.                                     */
bool reads_ordered(const shared_byte &b)
{
    if (b.read_epoch != s.block_now->epoch) return true;
    if (b.many_warps || b.reader / LANES != s.thread_now->index / LANES) return false;
    if (b.read_step != warp_now()->step) return true;
    return b.reader == s.thread_now->index && !b.many_lanes;
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
}

void note_writer(shared_byte *b)
{
    b->write_epoch = s.block_now->epoch;
    b->write_step = warp_now()->step;
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
        if (!ordered(b->writer, b->write_epoch, b->write_step)) {
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
        if (!ordered(b->writer, b->write_epoch, b->write_step)) {
            fail(caller, "race: write of shared byte %zu, written by thread %u with no barrier since",
                 offset + i, unsigned(b->writer));
        }
        if (!reads_ordered(*b)) {
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
    return ordered(b.writer, b.epoch, b.step);
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
    if (is_private(address, size, write)) return;
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
    b->has_fenced = false;
    b->met = b->acquired = 0;
    b->shared = s.shared + slot * SHARED_GAP;
    b->bytes = s.shared_bytes + slot * SHARED_SIZE;
    memset(b->shared, 0xff, s.launch.shared_bytes);
    for (size_t i = 0; i < s.launch.shared_bytes; i++) b->bytes[i].in_flight = false;
    const unsigned warps = (b->threads + LANES - 1) / LANES;
    b->warps.assign(warps, warp());
    std::vector<unsigned> order(warps);
    for (unsigned w = 0; w < warps; w++) {
        order[w] = w;
        b->warps[w].size = std::min(LANES, b->threads - w * LANES);
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
            t->fenced = t->fence_epoch = 0;
            t->waits_for = nullptr;
            t->groups.assign(1, { });
            b->runnable.push_back(t);
        }
    }
    counted.blocks++;
}

void finish_thread()
{
    block *b = s.block_now;
    thread *self = s.thread_now;
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
    s.launch = { what, grid, block_dim, shared_bytes, (s.random() & 1) != 0, (s.random() & 1) != 0 };
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
             [orders](void *const *) { if (orders) warp_now()->step++; });
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
    for (unsigned i = 0; i < b->threads; i++) {
        const thread *t = thread_of(b, i);
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
    for (int kind = 0; kind < 4; kind++) {
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
    static const char *const names[] = { "__syncthreads", "__syncwarp", "cp.async wait",
                                         "__threadfence" };
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
