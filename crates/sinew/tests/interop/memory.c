/* Shared memory as a C program uses it: shm_open, shmget, and mapped files. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where a program that made the memory writes, and where the other one answers. */
enum { FIRST = 0, ANSWER = 4096, SIZE = 8192 };

static void must(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static void wait_for_a_line(void) {
    char line[64];
    must(fgets(line, sizeof line, stdin) != NULL, "a line");
}

static char *map(int fd, size_t size) {
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(memory != MAP_FAILED, "mmap");
    return memory;
}

/* Reads what the maker wrote and answers. */
static void change(char *memory, size_t size) {
    printf("%zu %s\n", size, memory + FIRST);
    strcpy(memory + ANSWER, "answer");
}

/* Writes, and reads the answer when told so. */
static void make(char *memory) {
    strcpy(memory + FIRST, "made elsewhere");
    puts("ready");
    wait_for_a_line();
    printf("%s\n", memory + ANSWER);
}

static void change_fd(int fd) {
    must(fd >= 0, "open");
    struct stat status;
    must(fstat(fd, &status) == 0, "fstat");
    change(map(fd, (size_t)status.st_size), (size_t)status.st_size);
}

static void make_fd(int fd) {
    must(fd >= 0, "create");
    must(ftruncate(fd, SIZE) == 0, "ftruncate");
    make(map(fd, SIZE));
}

static void change_segment(int id) {
    must(id >= 0, "shmget");
    struct shmid_ds status;
    must(shmctl(id, IPC_STAT, &status) == 0, "shmctl");
    char *memory = shmat(id, NULL, 0);
    must(memory != (void *)-1, "shmat");
    change(memory, status.shm_segsz);
}

static void make_segment(key_t key) {
    int id = shmget(key, SIZE, IPC_CREAT | IPC_EXCL | 0600);
    must(id >= 0, "shmget");
    char *memory = shmat(id, NULL, 0);
    must(memory != (void *)-1, "shmat");
    make(memory);
    must(shmctl(id, IPC_RMID, NULL) == 0, "shmctl");
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *mode = count == 3 ? arguments[1] : "";
    const char *name = count == 3 ? arguments[2] : "";
    if (strcmp(mode, "posix-change") == 0) {
        change_fd(shm_open(name, O_RDWR, 0));
    } else if (strcmp(mode, "posix-make") == 0) {
        make_fd(shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600));
        must(shm_unlink(name) == 0, "shm_unlink");
    } else if (strcmp(mode, "sysv-change") == 0) {
        change_segment(shmget(atoi(name), 0, 0));
    } else if (strcmp(mode, "sysv-make") == 0) {
        make_segment(atoi(name));
    } else if (strcmp(mode, "file-change") == 0) {
        change_fd(open(name, O_RDWR));
    } else if (strcmp(mode, "file-make") == 0) {
        make_fd(open(name, O_RDWR | O_CREAT | O_EXCL, 0600));
    } else {
        fprintf(stderr, "no mode %s\n", mode);
        return 2;
    }
    return 0;
}
