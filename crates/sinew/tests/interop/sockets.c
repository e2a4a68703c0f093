/* UNIX sockets as a C program uses them: a message with a sealed memfd beside it, in each direction. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void must(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static struct sockaddr_un address_of(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    must(strlen(path) < sizeof address.sun_path, "a path that fits");
    strcpy(address.sun_path, path);
    return address;
}

/* A memfd that nobody can change any more. */
static int sealed_memfd(const char *content) {
    int fd = memfd_create("from C", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    must(fd >= 0, "memfd_create");
    must(write(fd, content, strlen(content)) == (ssize_t)strlen(content), "write");
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
    must(fcntl(fd, F_ADD_SEALS, seals) == 0, "F_ADD_SEALS");
    return fd;
}

/* Sends to an address, or to whoever is connected where its length is 0. */
static void send_with_memfd(int sock, const char *text, const struct sockaddr_un *to,
                            socklen_t to_length) {
    int fd = sealed_memfd("in a memfd of C");
    struct iovec data = {.iov_base = (void *)text, .iov_len = strlen(text)};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct msghdr message = {
        .msg_name = (void *)to,
        .msg_namelen = to_length,
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    must(sendmsg(sock, &message, MSG_NOSIGNAL) == (ssize_t)strlen(text), "sendmsg");
    close(fd);
}

/* Prints the text, the seals, what is in the memfd, and what a write to it gives. Gives the length
 * of the sender's address. */
static socklen_t recv_with_memfd(int sock, struct sockaddr_un *from) {
    char text[64];
    struct iovec data = {.iov_base = text, .iov_len = sizeof text};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct msghdr message = {
        .msg_name = from,
        .msg_namelen = from == NULL ? 0 : sizeof *from,
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    ssize_t length = recvmsg(sock, &message, MSG_CMSG_CLOEXEC);
    must(length >= 0, "recvmsg");
    must((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0, "a whole message");
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    must(header != NULL && header->cmsg_type == SCM_RIGHTS, "a descriptor");
    must(header->cmsg_len == CMSG_LEN(sizeof(int)), "one descriptor");
    int fd;
    memcpy(&fd, CMSG_DATA(header), sizeof fd);

    struct stat status;
    must(fstat(fd, &status) == 0, "fstat");
    char *memory = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
    must(memory != MAP_FAILED, "mmap");
    int seals = fcntl(fd, F_GET_SEALS);
    ssize_t written = pwrite(fd, "x", 1, 0);
    printf("%.*s|%d|%.15s|%s\n", (int)length, text, seals, memory,
           written < 0 && errno == EPERM ? "EPERM" : "written");
    close(fd);
    return message.msg_namelen;
}

static void connect_to(int type, const char *path) {
    int sock = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    must(sock >= 0, "socket");
    struct sockaddr_un to = address_of(path);
    if (type == SOCK_DGRAM) {
        /* An answer needs an address: the kernel chooses an abstract one. */
        sa_family_t family = AF_UNIX;
        must(bind(sock, (struct sockaddr *)&family, sizeof family) == 0, "bind");
        send_with_memfd(sock, "from C", &to, sizeof to);
    } else {
        must(connect(sock, (struct sockaddr *)&to, sizeof to) == 0, "connect");
        send_with_memfd(sock, "from C", NULL, 0);
    }
    recv_with_memfd(sock, NULL);
}

static void listen_at(int type, const char *path) {
    int sock = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    must(sock >= 0, "socket");
    struct sockaddr_un own = address_of(path), from = {0};
    must(bind(sock, (struct sockaddr *)&own, sizeof own) == 0, "bind");
    if (type == SOCK_DGRAM) {
        puts("ready");
        /* An abstract name has a length and no end. */
        socklen_t length = recv_with_memfd(sock, &from);
        send_with_memfd(sock, "from C", &from, length);
    } else {
        must(listen(sock, 1) == 0, "listen");
        puts("ready");
        int connection = accept(sock, NULL, NULL);
        must(connection >= 0, "accept");
        recv_with_memfd(connection, NULL);
        send_with_memfd(connection, "from C", NULL, 0);
    }
    must(unlink(path) == 0, "unlink");
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count != 4) {
        return 2;
    }
    int type = strcmp(arguments[2], "stream") == 0    ? SOCK_STREAM
               : strcmp(arguments[2], "dgram") == 0   ? SOCK_DGRAM
                                                      : SOCK_SEQPACKET;
    if (strcmp(arguments[1], "connect") == 0) {
        connect_to(type, arguments[3]);
    } else {
        listen_at(type, arguments[3]);
    }
    return 0;
}
