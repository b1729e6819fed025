/* A libnvidia-ml.so.1 without a driver: answers the calls that agent/cards/nvml.py makes from a state that tests script.
 *
 * stub_apply() takes one line of the script; a process that cannot call it names a file of such lines in STUB_NVML_SCRIPT,
 * read at every nvmlInit, and whenever cards are counted and the file has changed. Lines:
 *   reset                              no cards, no faults
 *   cards N                            N cards with plausible values
 *   driver CODE                        every call returns CODE (0: works again)
 *   card I FIELD VALUE                 uuid, name or a number (see number_of)
 *   card I fail FIELD CODE             the call behind FIELD returns CODE (0: works again); FIELD `all` for the whole card
 *   card I process PID BYTES SM        a compute process and its multiprocessor percentage
 *   card I noprocesses
 *   card I instance UUID TOTAL USED    a MIG instance
 *   card I nvlink J                    a working NVLink to card J, or to `switch`; each line adds one
 *   card I level J LEVEL               topology level of the common ancestor with card J (default 50, NVML_TOPOLOGY_SYSTEM)
 *   card I p2p J STATUS                P2P status towards card J (default 0, OK)
 *   event I TYPE DATA                  an event for nvmlEventSetWait
 * Values are NVML's own units: bytes, milliwatts, millijoules, percent. */
#define _POSIX_C_SOURCE 200809L
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

typedef int ret_t;
enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10 };
enum { MAX_CARDS = 16, MAX_NVLINKS = 18, TO_SWITCH = 99, MAX_PROCESSES = 128, MAX_INSTANCES = 8, MAX_EVENTS = 64 };

enum field {
    F_ALL, F_UUID, F_NAME, F_TOTAL, F_RESERVED, F_USED, F_FREE, F_UTIL, F_MEMUTIL, F_POWER, F_LIMIT, F_ENERGY, F_TEMP, F_ECC,
    F_PENDING, F_FAILED, F_MIG, F_PROCESSES, F_GRAPHICS, F_MPS, F_SM, F_MEMORY_V2, F_HANDLE, F_EVENTS, F_EVENTTYPES,
    F_PCI, F_NVLINK, F_LEVEL, F_P2P, FIELDS
};
static const char *const FIELD_NAMES[FIELDS] = {
    "all", "uuid", "name", "total", "reserved", "used", "free", "util", "memutil", "power", "limit", "energy", "temp", "ecc",
    "pending", "failed", "mig", "processes", "graphics", "mps", "sm", "memory_v2", "handle", "events", "eventtypes",
    "pci", "nvlink", "level", "p2p"
};

struct process { unsigned pid; unsigned long long bytes; unsigned sm; };

struct card {
    char uuid[96], name[96];
    unsigned long long number[FIELDS];
    ret_t fail[FIELDS];
    struct process process[MAX_PROCESSES];
    unsigned processes;
    struct card *instance[MAX_INSTANCES];
    unsigned instances, registered;
    unsigned nvlink[MAX_NVLINKS], nvlinks, level[MAX_CARDS], p2p[MAX_CARDS];
};

static struct card cards[MAX_CARDS];
static unsigned card_count;
static ret_t driver;
static unsigned started, clock_ticks;
static struct { struct card *card; unsigned long long type, data; } events[MAX_EVENTS];
static unsigned event_count;

static void defaults(struct card *card, unsigned index) {
    memset(card, 0, sizeof *card);
    snprintf(card->uuid, sizeof card->uuid, "GPU-00000000-0000-0000-0000-%012u", index);
    snprintf(card->name, sizeof card->name, "NVIDIA A100-SXM4-80GB");
    card->number[F_TOTAL] = 85899345920ULL;
    card->number[F_RESERVED] = 629145600ULL;
    card->number[F_FREE] = card->number[F_TOTAL] - card->number[F_RESERVED];
    card->number[F_POWER] = 60000;
    card->number[F_LIMIT] = 400000;
    card->number[F_ENERGY] = 1000000;
    card->number[F_TEMP] = 35;
    card->number[F_EVENTTYPES] = 8 | 2;
    for (unsigned other = 0; other < MAX_CARDS; other++) card->level[other] = 50;
}

static int field_of(const char *name) {
    for (int at = 0; at < FIELDS; at++)
        if (!strcmp(name, FIELD_NAMES[at])) return at;
    return -1;
}

/* Returns 0, or -1 for a line it does not understand. */
int stub_apply(const char *line) {
    char word[32] = "", value[96] = "";
    unsigned index = 0, number = 0, sm = 0;
    unsigned long long a = 0, b = 0;
    int code = 0;
    if (!strcmp(line, "reset")) {
        memset(cards, 0, sizeof cards);
        card_count = event_count = 0;
        driver = OK;
        return 0;
    }
    if (sscanf(line, "cards %u", &number) == 1 && number <= MAX_CARDS) {
        for (card_count = 0; card_count < number; card_count++) defaults(&cards[card_count], card_count);
        return 0;
    }
    if (sscanf(line, "driver %d", &code) == 1) { driver = code; return 0; }
    if (sscanf(line, "event %u %llu %llu", &index, &a, &b) == 3 && index < card_count && event_count < MAX_EVENTS) {
        events[event_count].card = &cards[index];
        events[event_count].type = a;
        events[event_count++].data = b;
        return 0;
    }
    if (sscanf(line, "card %u %31s", &index, word) != 2 || index >= card_count) return -1;
    struct card *card = &cards[index];
    if (sscanf(line, "card %*u fail %31s %d", word, &code) == 2) {
        int at = field_of(word);
        if (at < 0) return -1;
        card->fail[at] = code;
        return 0;
    }
    if (!strcmp(line + strlen(line) - strlen("nvlink switch"), "nvlink switch") && card->nvlinks < MAX_NVLINKS) {
        card->nvlink[card->nvlinks++] = TO_SWITCH;
        return 0;
    }
    if (sscanf(line, "card %*u nvlink %u", &number) == 1 && number < MAX_CARDS && card->nvlinks < MAX_NVLINKS) {
        card->nvlink[card->nvlinks++] = number;
        return 0;
    }
    if (sscanf(line, "card %*u level %u %u", &number, &sm) == 2 && number < MAX_CARDS) { card->level[number] = sm; return 0; }
    if (sscanf(line, "card %*u p2p %u %u", &number, &sm) == 2 && number < MAX_CARDS) { card->p2p[number] = sm; return 0; }
    if (!strcmp(word, "noprocesses")) { card->processes = 0; return 0; }
    if (sscanf(line, "card %*u process %u %llu %u", &number, &a, &sm) == 3 && card->processes < MAX_PROCESSES) {
        card->process[card->processes++] = (struct process){number, a, sm};
        return 0;
    }
    if (sscanf(line, "card %*u instance %95s %llu %llu", value, &a, &b) == 3 && card->instances < MAX_INSTANCES) {
        struct card *instance = malloc(sizeof *instance);
        defaults(instance, 0);
        snprintf(instance->uuid, sizeof instance->uuid, "%s", value);
        snprintf(instance->name, sizeof instance->name, "%s MIG 3g.40gb", card->name);
        instance->number[F_TOTAL] = a;
        instance->number[F_USED] = b;
        instance->number[F_RESERVED] = 0;
        instance->number[F_FREE] = a - b;
        card->instance[card->instances++] = instance;
        return 0;
    }
    int at = field_of(word);
    if (at < 0) return -1;
    const char *text = strstr(line, word) + strlen(word);
    while (*text == ' ') text++;
    if (at == F_UUID) snprintf(card->uuid, sizeof card->uuid, "%s", text);
    else if (at == F_NAME) snprintf(card->name, sizeof card->name, "%s", text);
    else card->number[at] = strtoull(text, NULL, 10);
    return 0;
}

static struct stat script;

static void apply_file(void) {
    const char *path = getenv("STUB_NVML_SCRIPT");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    if (!file) return;
    fstat(fileno(file), &script);
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (*line && stub_apply(line)) fprintf(stderr, "stub_nvml: not understood: %s\n", line);
    }
    fclose(file);
}

static void apply_changed_file(void) {
    const char *path = getenv("STUB_NVML_SCRIPT");
    struct stat now;
    if (path && !stat(path, &now) && (now.st_ino != script.st_ino || now.st_mtim.tv_sec != script.st_mtim.tv_sec
                                      || now.st_mtim.tv_nsec != script.st_mtim.tv_nsec))
        apply_file();
}

static ret_t check(const struct card *card, enum field at) {
    if (driver) return driver;
    if (!started) return UNINITIALIZED;
    if (card && card->fail[F_ALL]) return card->fail[F_ALL];
    return card ? card->fail[at] : OK;
}

#define ANSWER(card, at) do { ret_t _code = check((card), (at)); if (_code) return _code; } while (0)

ret_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    apply_file();
    if (driver) return driver;
    started++;
    return OK;
}
ret_t nvmlShutdown(void) { if (!started) return UNINITIALIZED; started--; return OK; }
const char *nvmlErrorString(ret_t code) { (void)code; return "scripted error"; }
ret_t nvmlSystemGetDriverVersion(char *text, unsigned size) { ANSWER(NULL, F_ALL); snprintf(text, size, "550.54.15"); return OK; }
ret_t nvmlDeviceGetCount_v2(unsigned *count) {
    apply_changed_file();
    ANSWER(NULL, F_ALL);
    *count = card_count;
    return OK;
}
ret_t nvmlDeviceGetHandleByIndex_v2(unsigned index, struct card **card) {
    if (index >= card_count) return INVALID_ARGUMENT;
    ANSWER(&cards[index], F_HANDLE);
    *card = &cards[index];
    return OK;
}
ret_t nvmlDeviceGetUUID(struct card *card, char *text, unsigned size) { ANSWER(card, F_UUID); snprintf(text, size, "%s", card->uuid); return OK; }
ret_t nvmlDeviceGetName(struct card *card, char *text, unsigned size) { ANSWER(card, F_NAME); snprintf(text, size, "%s", card->name); return OK; }

ret_t nvmlDeviceGetMemoryInfo(struct card *card, unsigned long long *memory) {
    ANSWER(card, F_TOTAL);
    memory[0] = card->number[F_TOTAL];
    memory[1] = card->number[F_FREE];
    memory[2] = card->number[F_USED] + card->number[F_RESERVED];
    return OK;
}
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };
ret_t nvmlDeviceGetMemoryInfo_v2(struct card *card, struct memory_v2 *memory) {
    ANSWER(card, F_MEMORY_V2);
    ANSWER(card, F_TOTAL);
    memory->total = card->number[F_TOTAL];
    memory->reserved = card->number[F_RESERVED];
    memory->free = card->number[F_FREE];
    memory->used = card->number[F_USED];
    return OK;
}
ret_t nvmlDeviceGetUtilizationRates(struct card *card, unsigned *rates) {
    ANSWER(card, F_UTIL);
    rates[0] = (unsigned)card->number[F_UTIL];
    rates[1] = (unsigned)card->number[F_MEMUTIL];
    return OK;
}

static ret_t number_of(struct card *card, enum field at, unsigned *value) { ANSWER(card, at); *value = (unsigned)card->number[at]; return OK; }
ret_t nvmlDeviceGetPowerUsage(struct card *card, unsigned *value) { return number_of(card, F_POWER, value); }
ret_t nvmlDeviceGetEnforcedPowerLimit(struct card *card, unsigned *value) { return number_of(card, F_LIMIT, value); }
ret_t nvmlDeviceGetTemperature(struct card *card, unsigned sensor, unsigned *value) { (void)sensor; return number_of(card, F_TEMP, value); }
ret_t nvmlDeviceGetTotalEnergyConsumption(struct card *card, unsigned long long *value) { ANSWER(card, F_ENERGY); *value = card->number[F_ENERGY]; return OK; }
ret_t nvmlDeviceGetTotalEccErrors(struct card *card, unsigned kind, unsigned counter, unsigned long long *value) {
    (void)kind; (void)counter;
    ANSWER(card, F_ECC);
    *value = card->number[F_ECC];
    return OK;
}
ret_t nvmlDeviceGetRemappedRows(struct card *card, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    ANSWER(card, F_PENDING);
    *corrected = *uncorrected = 0;
    *pending = (unsigned)card->number[F_PENDING];
    *failed = (unsigned)card->number[F_FAILED];
    return OK;
}
ret_t nvmlDeviceGetMigMode(struct card *card, unsigned *current, unsigned *pending) {
    ANSWER(card, F_MIG);
    *current = *pending = (unsigned)card->number[F_MIG];
    return OK;
}
ret_t nvmlDeviceGetMaxMigDeviceCount(struct card *card, unsigned *count) { ANSWER(card, F_MIG); *count = MAX_INSTANCES - 1; return OK; }
ret_t nvmlDeviceGetMigDeviceHandleByIndex(struct card *card, unsigned index, struct card **instance) {
    ANSWER(card, F_MIG);
    if (index >= card->instances) return NOT_FOUND;
    *instance = card->instance[index];
    return OK;
}

struct process_info { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; };
static ret_t list(struct card *card, enum field at, unsigned size, unsigned *count, struct process_info *info) {
    ANSWER(card, at);
    unsigned room = *count;
    *count = size;
    if (size && (!info || room < size)) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < size; i++)
        info[i] = (struct process_info){card->process[i].pid, card->process[i].bytes, ~0u, ~0u};
    return OK;
}
ret_t nvmlDeviceGetComputeRunningProcesses_v3(struct card *card, unsigned *count, struct process_info *info) { return list(card, F_PROCESSES, card->processes, count, info); }
ret_t nvmlDeviceGetGraphicsRunningProcesses_v3(struct card *card, unsigned *count, struct process_info *info) { return list(card, F_GRAPHICS, 0, count, info); }
ret_t nvmlDeviceGetMPSComputeRunningProcesses_v3(struct card *card, unsigned *count, struct process_info *info) { return list(card, F_MPS, 0, count, info); }

struct sample { unsigned pid; unsigned long long at; unsigned sm, memory, encoder, decoder; };
ret_t nvmlDeviceGetProcessUtilization(struct card *card, struct sample *samples, unsigned *count, unsigned long long since) {
    (void)since;
    ANSWER(card, F_SM);
    unsigned room = *count;
    *count = card->processes;
    if (!card->processes) return NOT_FOUND;
    if (!samples || room < card->processes) return INSUFFICIENT_SIZE;
    clock_ticks++;
    for (unsigned i = 0; i < card->processes; i++)
        samples[i] = (struct sample){card->process[i].pid, clock_ticks, card->process[i].sm, 0, 0, 0};
    return OK;
}

struct event_data { struct card *card; unsigned long long type, data; unsigned gpu_instance, compute_instance; };
static int event_set;
ret_t nvmlEventSetCreate(int **set) {
    ANSWER(NULL, F_ALL);
    for (unsigned i = 0; i < MAX_CARDS; i++) cards[i].registered = 0;
    *set = &event_set;
    return OK;
}
ret_t nvmlEventSetFree(int *set) { (void)set; return OK; }
ret_t nvmlDeviceGetSupportedEventTypes(struct card *card, unsigned long long *types) { ANSWER(card, F_EVENTTYPES); *types = card->number[F_EVENTTYPES]; return OK; }
ret_t nvmlDeviceRegisterEvents(struct card *card, unsigned long long types, int *set) {
    (void)set;
    ANSWER(card, F_EVENTS);
    if (types & ~card->number[F_EVENTTYPES]) return NOT_SUPPORTED;
    card->registered = 1;
    return OK;
}
ret_t nvmlEventSetWait_v2(int *set, struct event_data *data, unsigned timeout_ms) {
    (void)set;
    for (unsigned waited = 0;; waited += 25) {
        ANSWER(NULL, F_ALL);
        for (unsigned i = 0; i < card_count; i++)
            if (cards[i].registered && cards[i].fail[F_ALL]) return cards[i].fail[F_ALL];
        if (event_count) {
            *data = (struct event_data){events[0].card, events[0].type, events[0].data, ~0u, ~0u};
            memmove(events, events + 1, --event_count * sizeof *events);
            return OK;
        }
        if (waited >= timeout_ms) return TIMEOUT;
        nanosleep(&(struct timespec){0, 25000000}, NULL);
    }
}

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
static void pci_of(unsigned index, struct pci *pci) {
    memset(pci, 0, sizeof *pci);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", 16 + index);
}
ret_t nvmlDeviceGetPciInfo_v3(struct card *card, struct pci *pci) { ANSWER(card, F_PCI); pci_of((unsigned)(card - cards), pci); return OK; }
ret_t nvmlDeviceGetNvLinkState(struct card *card, unsigned link, unsigned *active) {
    ANSWER(card, F_NVLINK);
    if (!card->nvlinks) return NOT_SUPPORTED;
    if (link >= MAX_NVLINKS) return INVALID_ARGUMENT;
    *active = link < card->nvlinks;
    return OK;
}
ret_t nvmlDeviceGetNvLinkRemoteDeviceType(struct card *card, unsigned link, unsigned *type) {
    ANSWER(card, F_NVLINK);
    if (link >= card->nvlinks) return INVALID_ARGUMENT;
    *type = card->nvlink[link] == TO_SWITCH ? 2 : 0;
    return OK;
}
ret_t nvmlDeviceGetNvLinkRemotePciInfo_v2(struct card *card, unsigned link, struct pci *pci) {
    ANSWER(card, F_NVLINK);
    if (link >= card->nvlinks) return INVALID_ARGUMENT;
    pci_of(card->nvlink[link], pci);
    return OK;
}
ret_t nvmlDeviceGetTopologyCommonAncestor(struct card *card, struct card *other, unsigned *level) {
    ANSWER(card, F_LEVEL);
    *level = card->level[other - cards];
    return OK;
}
ret_t nvmlDeviceGetP2PStatus(struct card *card, struct card *other, unsigned index, unsigned *status) {
    (void)index;
    ANSWER(card, F_P2P);
    *status = card->p2p[other - cards];
    return OK;
}
