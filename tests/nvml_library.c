/* A libnvidia-ml.so.1 without a card: what the binding calls, on two boards that lie in a file (NVML_BOARDS).
 *
 * The file is a `struct machine`, which whoever maps it may change under way; tests/nvml_library.py has its other half.
 * A function whose name is among the failures gives that code and does nothing else; a name that ends in `*` stands for
 * all that begin so. With -DOLD, functions are missing that came after the driver 440.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BOARDS = 2, FANS = 2, FAILURES = 8, UNINITIALIZED = 1, INVALID = 2, NOT_FOUND = 6, LOST = 15 };

struct board {
    char uuid[48];
    uint32_t temperature, busy, clock, highest_clock, milliwatts;
    uint32_t limit, lowest_limit, highest_limit;
    uint32_t locked, fans, lost;
    uint32_t policy[FANS], percent[FANS];
};

struct rates { uint32_t gpu, memory; };

struct machine {
    uint32_t count, calls;
    struct { char name[56]; int32_t code; uint32_t hits; } failures[FAILURES];
    struct board boards[BOARDS];
};

static struct machine *machine;

static int failing(const char *name)
{
    if (!machine)
        return UNINITIALIZED;
    machine->calls++;
    for (int i = 0; i < FAILURES; i++) {
        const char *failure = machine->failures[i].name;
        size_t length = strlen(failure);
        int all = length && failure[length - 1] == '*';
        if (length && (all ? strncmp(failure, name, length - 1) == 0 : strcmp(failure, name) == 0)) {
            machine->failures[i].hits++;
            return machine->failures[i].code;
        }
    }
    return 0;
}

static int holds(const struct board *board)
{
    return machine && board >= machine->boards && board < machine->boards + machine->count;
}

#define CHECKED(board) \
    do { \
        int code = failing(__func__); \
        if (code) \
            return code; \
        if (!holds(board)) \
            return INVALID; \
        if (board->lost) \
            return LOST; \
    } while (0)

#define GETTER(name, field) \
    int name(struct board *board, uint32_t *value) { CHECKED(board); *value = board->field; return 0; }
#define KIND_GETTER(name, field) \
    int name(struct board *board, int kind, uint32_t *value) \
    { CHECKED(board); if (kind != 0) return INVALID; *value = board->field; return 0; }
#define FAN_GETTER(name, field) \
    int name(struct board *board, uint32_t fan, uint32_t *value) \
    { CHECKED(board); if (fan >= board->fans) return INVALID; *value = board->field[fan]; return 0; }

int nvmlInitWithFlags(unsigned flags)
{
    static char mapped[4096];
    const char *path = getenv("NVML_BOARDS");
    (void)flags;
    /* Handles outlive whoever initialises again. */
    if (!machine || strcmp(mapped, path) != 0) {
        int file = open(path, O_RDWR | O_CLOEXEC);
        void *place = mmap(0, sizeof(struct machine), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        if (place == MAP_FAILED)
            return UNINITIALIZED;
        machine = place;
        strncpy(mapped, path, sizeof mapped - 1);
    }
    return failing(__func__);
}

int nvmlShutdown(void) { return failing(__func__); }

const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "no words for it"; }

int nvmlDeviceGetCount_v2(uint32_t *count)
{
    int code = failing(__func__);
    if (code == 0)
        *count = machine->count;
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(uint32_t index, struct board **board)
{
    int code = failing(__func__);
    if (code == 0 && index >= machine->count)
        code = INVALID;
    if (code == 0 && machine->boards[index].lost)
        code = LOST;
    if (code == 0)
        *board = machine->boards + index;
    return code;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, struct board **board)
{
    int code = failing(__func__);
    for (uint32_t i = 0; code == 0 && i < machine->count; i++)
        if (strcmp(machine->boards[i].uuid, uuid) == 0) {
            *board = machine->boards + i;
            return 0;
        }
    return code ? code : NOT_FOUND;
}

int nvmlDeviceGetUUID(struct board *board, char *uuid, uint32_t length)
{
    CHECKED(board);
    strncpy(uuid, board->uuid, length);
    return 0;
}

struct pci { char legacy[16]; uint32_t domain, bus, device, id, subsystem; char bus_id[32]; };

int nvmlDeviceGetPciInfo_v3(struct board *board, struct pci *pci)
{
    CHECKED(board);
    memset(pci, 0, sizeof *pci);
    strcpy(pci->bus_id, "00000000:00:00.0");
    pci->bus_id[10] += board->uuid[39] - '0' + 1;
    return 0;
}

KIND_GETTER(nvmlDeviceGetTemperature, temperature)
KIND_GETTER(nvmlDeviceGetClockInfo, clock)
KIND_GETTER(nvmlDeviceGetMaxClockInfo, highest_clock)
GETTER(nvmlDeviceGetPowerUsage, milliwatts)
GETTER(nvmlDeviceGetPowerManagementLimit, limit)

int nvmlDeviceGetUtilizationRates(struct board *board, struct rates *rates)
{
    CHECKED(board);
    rates->gpu = board->busy;
    rates->memory = 0;
    return 0;
}

int nvmlDeviceGetPowerManagementLimitConstraints(struct board *board, uint32_t *lowest, uint32_t *highest)
{
    CHECKED(board);
    *lowest = board->lowest_limit;
    *highest = board->highest_limit;
    return 0;
}

int nvmlDeviceSetPowerManagementLimit(struct board *board, uint32_t limit)
{
    CHECKED(board);
    if (limit < board->lowest_limit || limit > board->highest_limit)
        return INVALID;
    board->limit = limit;
    return 0;
}

#ifndef OLD
GETTER(nvmlDeviceGetNumFans, fans)
FAN_GETTER(nvmlDeviceGetTargetFanSpeed, percent)
FAN_GETTER(nvmlDeviceGetFanControlPolicy_v2, policy)

int nvmlDeviceSetFanSpeed_v2(struct board *board, uint32_t fan, uint32_t percent)
{
    CHECKED(board);
    if (fan >= board->fans || percent > 100)
        return INVALID;
    board->policy[fan] = 1;
    board->percent[fan] = percent;
    return 0;
}

int nvmlDeviceSetDefaultFanSpeed_v2(struct board *board, uint32_t fan)
{
    CHECKED(board);
    if (fan >= board->fans)
        return INVALID;
    board->policy[fan] = 0;
    board->percent[fan] = 30;
    return 0;
}

int nvmlDeviceSetGpuLockedClocks(struct board *board, uint32_t lowest, uint32_t highest)
{
    CHECKED(board);
    if (lowest > highest)
        return INVALID;
    board->locked = highest;
    return 0;
}

int nvmlDeviceResetGpuLockedClocks(struct board *board)
{
    CHECKED(board);
    board->locked = 0;
    return 0;
}
#endif
