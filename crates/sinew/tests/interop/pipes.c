/* Pipes and FIFOs as a C program uses them: by an inherited number, or by a path. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COUNT = 200000 };

static void must(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

/* Byte number `i` of what goes through. */
static unsigned char byte(size_t i) { return (unsigned char)(i * 31 + i / 251); }

/* Reads to the end and prints how many bytes came as they were sent. */
static void read_all(int fd) {
    unsigned char data[10000];
    size_t count = 0, good = 0;
    for (;;) {
        ssize_t length = read(fd, data, sizeof data);
        must(length >= 0, "read");
        if (length == 0) {
            break;
        }
        for (ssize_t i = 0; i < length; i++, count++) {
            good += data[i] == byte(count);
        }
    }
    printf("%zu of %zu\n", good, count);
}

static void write_all(int fd) {
    unsigned char data[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        data[i] = byte(i);
    }
    for (size_t done = 0; done < COUNT;) {
        ssize_t length = write(fd, data + done, COUNT - done);
        must(length > 0, "write");
        done += (size_t)length;
    }
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count != 3) {
        return 2;
    }
    if (strcmp(arguments[1], "read-fd") == 0) {
        read_all(atoi(arguments[2]));
    } else if (strcmp(arguments[1], "write-fd") == 0) {
        write_all(atoi(arguments[2]));
    } else if (strcmp(arguments[1], "read-path") == 0) {
        int fd = open(arguments[2], O_RDONLY);
        must(fd >= 0, "open");
        read_all(fd);
    } else {
        int fd = open(arguments[2], O_WRONLY);
        must(fd >= 0, "open");
        write_all(fd);
    }
    return 0;
}
