/* Queues as a C program uses them: POSIX through mq_open, System V through msgget. */
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>

struct message {
    long type;
    char text[64];
};

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

static void mq_print_one(mqd_t queue) {
    char text[64];
    unsigned priority;
    ssize_t length = mq_receive(queue, text, sizeof text, &priority);
    must(length >= 0, "mq_receive");
    printf("%u %.*s\n", priority, (int)length, text);
}

static void mq_take(const char *name) {
    mqd_t queue = mq_open(name, O_RDWR);
    must(queue != (mqd_t)-1, "mq_open");
    mq_print_one(queue);
    mq_print_one(queue);
    must(mq_send(queue, "answer", 6, 7) == 0, "mq_send");
}

static void mq_make(const char *name) {
    struct mq_attr attributes = {.mq_maxmsg = 3, .mq_msgsize = 48};
    mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);
    must(queue != (mqd_t)-1, "mq_open");
    must(mq_send(queue, "made elsewhere", 14, 3) == 0, "mq_send");
    puts("ready");
    wait_for_a_line();
    mq_print_one(queue);
    must(mq_unlink(name) == 0, "mq_unlink");
}

static void msg_print_one(int queue, long type) {
    struct message message;
    ssize_t length = msgrcv(queue, &message, sizeof message.text, type, 0);
    must(length >= 0, "msgrcv");
    printf("%ld %.*s\n", message.type, (int)length, message.text);
}

static void msg_put(int queue, long type, const char *text) {
    struct message message = {.type = type};
    memcpy(message.text, text, strlen(text));
    must(msgsnd(queue, &message, strlen(text), 0) == 0, "msgsnd");
}

static void msg_take(const char *key) {
    int queue = msgget(atoi(key), 0);
    must(queue >= 0, "msgget");
    msg_print_one(queue, 5);
    msg_print_one(queue, 4);
    msg_put(queue, 6, "answer");
}

static void msg_make(const char *path, const char *project) {
    key_t key = ftok(path, atoi(project));
    must(key != -1, "ftok");
    int queue = msgget(key, IPC_CREAT | IPC_EXCL | 0600);
    must(queue >= 0, "msgget");
    msg_put(queue, 3, "made elsewhere");
    puts("ready");
    wait_for_a_line();
    msg_print_one(queue, -9);
    must(msgctl(queue, IPC_RMID, NULL) == 0, "msgctl");
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *mode = count > 2 ? arguments[1] : "";
    if (strcmp(mode, "mq-take") == 0) {
        mq_take(arguments[2]);
    } else if (strcmp(mode, "mq-make") == 0) {
        mq_make(arguments[2]);
    } else if (strcmp(mode, "msg-take") == 0) {
        msg_take(arguments[2]);
    } else if (strcmp(mode, "msg-make") == 0 && count > 3) {
        msg_make(arguments[2], arguments[3]);
    } else {
        fprintf(stderr, "no mode %s\n", mode);
        return 2;
    }
    return 0;
}
