/* NVIDIA's management library, as far as the gateway asks it, over one device that does not exist.
 *
 * State is the directory $FAKE_NVML_DIR, read anew at every call. Sizes are MiB, as text:
 *
 *   total               size of the device
 *   reserved            in use, and nobody is named for it
 *   PID                 held by that process; when it ends, it is given back
 *   linger_ms           given back so long after the end was first seen, or `never`
 *   no_processes        the system shows no processes
 *   no_process_memory   it shows them, but not what each holds
 *
 * Written by this library: gone.PID, the moment at which a holder was first seen to have ended.
 */

#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MIB (1024ULL * 1024ULL)
#define NOT_AVAILABLE (~0ULL)

typedef enum {
    SUCCESS = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
} Return;

typedef void *Device;

typedef struct {
    unsigned long long total, free, used;
} Memory;

typedef struct {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance, compute_instance;
} Process;

static int only_device;

static void path_of(char *path, const char *name) {
    snprintf(path, PATH_MAX, "%s/%s", getenv("FAKE_NVML_DIR"), name);
}

/* The first word of a file; false where there is no such file. */
static bool read_word(const char *name, char *word, size_t size) {
    char path[PATH_MAX];
    path_of(path, name);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    if (fgets(word, (int)size, file) == NULL)
        word[0] = '\0';
    word[strcspn(word, " \n")] = '\0';
    fclose(file);
    return true;
}

static bool has(const char *name) {
    char word[32];
    return read_word(name, word, sizeof word);
}

static unsigned long long mib_in(const char *name) {
    char word[32];
    return read_word(name, word, sizeof word) ? strtoull(word, NULL, 10) : 0;
}

static bool is_pid(const char *name) {
    for (const char *c = name; *c != '\0'; c++)
        if (!isdigit((unsigned char)*c))
            return false;
    return *name != '\0';
}

static bool is_alive(const char *pid) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "/proc/%s", pid);
    return access(path, F_OK) == 0;
}

/* Milliseconds since a holder was first seen to have ended. */
static double gone_for_ms(const char *pid) {
    char name[64], path[PATH_MAX];
    struct timespec now;
    struct stat mark;
    snprintf(name, sizeof name, "gone.%.40s", pid);
    path_of(path, name);
    if (stat(path, &mark) != 0) {
        FILE *file = fopen(path, "w");
        if (file != NULL)
            fclose(file);
        return 0;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)(now.tv_sec - mark.st_mtim.tv_sec) * 1e3 +
           (double)(now.tv_nsec - mark.st_mtim.tv_nsec) / 1e6;
}

static bool is_held(const char *pid) {
    char linger[32];
    if (is_alive(pid))
        return true;
    if (!read_word("linger_ms", linger, sizeof linger))
        return false;
    return strcmp(linger, "never") == 0 || gone_for_ms(pid) < strtod(linger, NULL);
}

Return nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    return getenv("FAKE_NVML_DIR") != NULL && has("total") ? SUCCESS : DRIVER_NOT_LOADED;
}

Return nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

Return nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(Return result) {
    return result == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "Unknown Error";
}

Return nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = 1;
    return SUCCESS;
}

Return nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device *device) {
    if (index != 0)
        return INVALID_ARGUMENT;
    *device = &only_device;
    return SUCCESS;
}

Return nvmlDeviceGetName(Device device, char *name, unsigned int length) {
    static const char text[] = "A device that does not exist";
    if (device != &only_device)
        return INVALID_ARGUMENT;
    if (length < sizeof text)
        return INSUFFICIENT_SIZE;
    memcpy(name, text, sizeof text);
    return SUCCESS;
}

Return nvmlDeviceGetMemoryInfo(Device device, Memory *memory) {
    char path[PATH_MAX];
    if (device != &only_device)
        return INVALID_ARGUMENT;
    unsigned long long total = mib_in("total"), used = mib_in("reserved");
    path_of(path, "");
    DIR *folder = opendir(path);
    if (folder == NULL)
        return DRIVER_NOT_LOADED;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        if (is_pid(entry->d_name) && is_held(entry->d_name))
            used += mib_in(entry->d_name);
    closedir(folder);
    if (used > total)
        used = total;
    memory->total = total * MIB;
    memory->used = used * MIB;
    memory->free = (total - used) * MIB;
    return SUCCESS;
}

Return nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned int *count, Process *out) {
    char path[PATH_MAX];
    unsigned int room = *count, found = 0;
    if (device != &only_device)
        return INVALID_ARGUMENT;
    if (has("no_processes"))
        return NOT_SUPPORTED;
    bool with_memory = !has("no_process_memory");
    path_of(path, "");
    DIR *folder = opendir(path);
    if (folder == NULL)
        return DRIVER_NOT_LOADED;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (!is_pid(entry->d_name) || !is_alive(entry->d_name))
            continue;
        if (out != NULL && found < room) {
            unsigned long long used = with_memory ? mib_in(entry->d_name) * MIB : NOT_AVAILABLE;
            out[found] = (Process){(unsigned int)strtoul(entry->d_name, NULL, 10), used, 0, 0};
        }
        found++;
    }
    closedir(folder);
    *count = found;
    return found <= room && (out != NULL || found == 0) ? SUCCESS : INSUFFICIENT_SIZE;
}

Return nvmlDeviceGetGraphicsRunningProcesses_v3(Device device, unsigned int *count, Process *out) {
    (void)out;
    if (device != &only_device)
        return INVALID_ARGUMENT;
    if (has("no_processes"))
        return NOT_SUPPORTED;
    *count = 0;
    return SUCCESS;
}
