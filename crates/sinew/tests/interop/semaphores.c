/* Semaphores as a C program uses them: sem_open, sem_init in shared memory, and semget. It does what it
 * is told line by line, and says what came of it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/sem.h>
#include <time.h>
#include <unistd.h>

static void must(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

/* One or the other. */
static sem_t *posix;
static int set = -1;

static int change(int by, int flags) {
    struct sembuf one = {.sem_num = 0, .sem_op = (short)by, .sem_flg = (short)flags};
    return semop(set, &one, 1);
}

static int take(void) {
    return posix ? sem_wait(posix) : change(-1, 0);
}

static int post(void) {
    return posix ? sem_post(posix) : change(1, 0);
}

static int take_in_time(void) {
    struct timespec end;
    must(clock_gettime(CLOCK_REALTIME, &end) == 0, "clock_gettime");
    end.tv_sec += 60;
    return sem_timedwait(posix, &end);
}

static int value(void) {
    int value = 0;
    if (!posix) {
        return semctl(set, 0, GETVAL);
    }
    must(sem_getvalue(posix, &value) == 0, "sem_getvalue");
    return value;
}

static int obey(const char *word) {
    if (strcmp(word, "take") == 0) {
        return take();
    } else if (strcmp(word, "take in time") == 0) {
        return take_in_time();
    } else if (strcmp(word, "try") == 0) {
        return posix ? sem_trywait(posix) : change(-1, IPC_NOWAIT);
    } else if (strcmp(word, "take with undo") == 0) {
        return change(-1, SEM_UNDO);
    } else if (strcmp(word, "post") == 0) {
        return post();
    } else if (strcmp(word, "value") == 0) {
        printf("%d ", value());
        return 0;
    } else if (strncmp(word, "many ", 5) == 0) {
        for (int left = atoi(word + 5); left > 0; left--) {
            must(take() == 0 && post() == 0, "take and post");
        }
        return 0;
    }
    fprintf(stderr, "no word %s\n", word);
    exit(2);
}

/* Shared memory at a path, and a place in it. */
static sem_t *place(const char *path, size_t offset) {
    int fd = open(path, O_RDWR);
    must(fd >= 0, path);
    char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(memory != MAP_FAILED, "mmap");
    return (sem_t *)(memory + offset);
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *mode = count == 4 ? arguments[1] : "";
    const char *name = count == 4 ? arguments[2] : "";
    unsigned number = count == 4 ? (unsigned)atoi(arguments[3]) : 0;
    if (strcmp(mode, "open") == 0) {
        posix = sem_open(name, 0);
    } else if (strcmp(mode, "create") == 0) {
        posix = sem_open(name, O_CREAT | O_EXCL, 0600, number);
    } else if (strcmp(mode, "at") == 0) {
        posix = place(name, number);
    } else if (strcmp(mode, "init") == 0) {
        posix = place(name, number);
        must(sem_init(posix, 1, 2) == 0, "sem_init");
    } else if (strcmp(mode, "set") == 0) {
        set = semget(atoi(name), 0, 0);
    } else if (strcmp(mode, "make-set") == 0) {
        set = semget(atoi(name), 2, IPC_CREAT | IPC_EXCL | 0600);
        must(set >= 0 && semctl(set, 0, SETVAL, number) == 0, "make a set");
        must(change(1, 0) == 0 && change(-1, 0) == 0, "use it");
    } else {
        fprintf(stderr, "no mode %s\n", mode);
        return 2;
    }
    must(posix ? posix != SEM_FAILED : set >= 0, "open");
    puts("ready");
    char line[64];
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (obey(line) == 0) {
            puts("done");
        } else {
            puts(strerrorname_np(errno));
        }
    }
    return 0;
}
