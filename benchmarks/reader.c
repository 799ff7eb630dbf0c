/* The least that a client of event streams costs: N closed streams on one epoll, each read stamped by the kernel.
 *
 * usage: reader PORT STREAMS ROUNDS TOKENS
 * Prints one JSON object: mean TTFT by the kernel's stamps and by this process's own, p99 of the gap between reads,
 * tokens a second while all streams were under way, CPU seconds a token, how late reads were, how many held
 * several events. An answer is over at a read that ends as the last chunk of an event stream does.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/net_tstamp.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <fcntl.h>

struct stream { int fd, left, first; int64_t sent, last; };

static int64_t clock_ns(clockid_t id) { struct timespec t; clock_gettime(id, &t); return t.tv_sec * 1000000000LL + t.tv_nsec; }
static double cpu_s(void) {
  struct rusage u; getrusage(RUSAGE_SELF, &u);
  return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}
static int by_size(const void *a, const void *b) { int64_t x = *(const int64_t *)a, y = *(const int64_t *)b; return x < y ? -1 : x > y; }
static void fail(const char *what) { perror(what); exit(1); }

static char request[1024]; static int request_size;
static void start(struct stream *s) {
  s->first = 0; s->last = 0; s->sent = clock_ns(CLOCK_REALTIME);
  if (send(s->fd, request, request_size, 0) != request_size) fail("send");
}

int main(int argc, char **argv) {
  if (argc != 5) { fprintf(stderr, "usage: reader PORT STREAMS ROUNDS TOKENS\n"); return 2; }
  int port = atoi(argv[1]), count = atoi(argv[2]), rounds = atoi(argv[3]), tokens = atoi(argv[4]);
  char body[256];
  int size = snprintf(body, sizeof body, "{\"model\":\"m\",\"prompt\":[1,2,3],\"max_tokens\":%d,\"stream\":true,\"stream_options\":{\"include_usage\":true}}", tokens);
  request_size = snprintf(request, sizeof request, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", size, body);
  struct stream *all = calloc(count, sizeof *all);
  int64_t most = (int64_t)count * rounds * (tokens + 8), gaps_n = 0, late_n = 0;
  int64_t *gaps = malloc(most * 8), *late = malloc(most * 8);
  double ttft_kernel = 0, ttft_user = 0; int64_t answers = 0, merged = 0;
  int epoll = epoll_create1(0), one = 1, flags = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
  for (int i = 0; i < count; i++) {
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct stream *s = &all[i];
    s->fd = socket(AF_INET, SOCK_STREAM, 0); s->left = rounds;
    if (s->fd < 0 || connect(s->fd, (struct sockaddr *)&to, sizeof to)) fail("connect");
    setsockopt(s->fd, SOL_SOCKET, SO_TIMESTAMPING, &flags, sizeof flags);
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(s->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = s };
    epoll_ctl(epoll, EPOLL_CTL_ADD, s->fd, &e);
  }
  double cpu = cpu_s(); int64_t begin = clock_ns(CLOCK_REALTIME);
  for (int i = 0; i < count; i++) start(&all[i]);
  static char data[65536]; char control[128]; struct epoll_event ready[256];
  for (int alive = count; alive;) {
    int n = epoll_wait(epoll, ready, 256, -1);
    for (int i = 0; i < n; i++) {
      struct stream *s = ready[i].data.ptr;
      struct iovec iov = { data, sizeof data };
      struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
      ssize_t got = recvmsg(s->fd, &m, 0);
      if (got < 0 && errno == EAGAIN) continue;
      if (got <= 0) { fprintf(stderr, "the server closed a connection\n"); return 1; }
      int64_t user = clock_ns(CLOCK_REALTIME), kernel = user;
      for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPING) {
          struct timespec *t = (struct timespec *)CMSG_DATA(c);
          if (t->tv_sec) kernel = t->tv_sec * 1000000000LL + t->tv_nsec;
        }
      late[late_n++] = user - kernel;
      char *event = memmem(data, got, "data: {", 7);
      if (event) {
        if (!s->first) { s->first = 1; ttft_kernel += kernel - s->sent; ttft_user += user - s->sent; }
        else gaps[gaps_n++] = kernel - s->last;
        if (memmem(event + 7, data + got - event - 7, "data: {", 7)) merged++;
        s->last = kernel;
      }
      if (got >= 5 && !memcmp(data + got - 5, "0\r\n\r\n", 5)) {
        answers++;
        if (--s->left) start(s);
        else { epoll_ctl(epoll, EPOLL_CTL_DEL, s->fd, NULL); close(s->fd); alive--; }
      }
    }
  }
  double wall = (clock_ns(CLOCK_REALTIME) - begin) / 1e9; cpu = cpu_s() - cpu;
  qsort(gaps, gaps_n, 8, by_size); qsort(late, late_n, 8, by_size);
  double total = (double)answers * tokens;
  printf("{\"answers\": %lld, \"ttft_kernel_s\": %.9f, \"ttft_user_s\": %.9f, \"gap_p99_s\": %.9f, \"token_rate\": %.1f, \"cpu_s_per_token\": %.9f, "
         "\"late_p50_s\": %.9f, \"late_p99_s\": %.9f, \"reads_per_token\": %.3f, \"merged_reads\": %lld}\n",
         (long long)answers, ttft_kernel / answers / 1e9, ttft_user / answers / 1e9, gaps_n ? gaps[gaps_n * 99 / 100] / 1e9 : 0, total / wall, cpu / total,
         late[late_n / 2] / 1e9, late[late_n * 99 / 100] / 1e9, late_n / total, (long long)merged);
  return 0;
}
