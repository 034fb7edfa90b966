#pragma once
#define MHD_NO_DEPRECATION 1
#include <microhttpd.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

/* Variadic functions that Swift does not import; static inline works inside a
   systemLibrary's umbrella header: no separate C target is needed. */
static inline enum MHD_Result cmhd_set_response_flags(struct MHD_Response *r, unsigned flags) {
  return MHD_set_response_options(r, (enum MHD_ResponseFlags)flags, MHD_RO_END);
}
static inline const struct sockaddr *cmhd_client_address(struct MHD_Connection *c) {
  const union MHD_ConnectionInfo *i = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
  return i ? i->client_addr : 0;
}
static inline int cmhd_connection_fd(struct MHD_Connection *c) {
  const union MHD_ConnectionInfo *i = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
  return i ? i->connect_fd : -1;
}
static inline void *cmhd_tls_session(struct MHD_Connection *c) {
  const union MHD_ConnectionInfo *i = MHD_get_connection_info(c, MHD_CONNECTION_INFO_GNUTLS_SESSION);
  return i ? i->tls_session : 0;
}
static inline uint16_t cmhd_bind_port(struct MHD_Daemon *d) {
  const union MHD_DaemonInfo *i = MHD_get_daemon_info(d, MHD_DAEMON_INFO_BIND_PORT);
  return i ? i->port : 0;
}
static inline unsigned cmhd_current_connections(struct MHD_Daemon *d) {
  const union MHD_DaemonInfo *i = MHD_get_daemon_info(d, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);
  return i ? i->num_connections : 0;
}
static inline enum MHD_Result cmhd_set_timeout(struct MHD_Connection *c, unsigned seconds) {
  return MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, seconds);
}

/* Macros with casts that Swift does not import. */
static inline ssize_t cmhd_end_of_stream(void) { return MHD_CONTENT_READER_END_OF_STREAM; }
static inline ssize_t cmhd_end_with_error(void) { return MHD_CONTENT_READER_END_WITH_ERROR; }

/* accept4 is hidden without _GNU_SOURCE: a connection that no child inherits and that never blocks. */
static inline int cmhd_accept(int listener, struct sockaddr *address, socklen_t *size) {
  extern int accept4(int, struct sockaddr *, socklen_t *, int);
  return accept4(listener, address, size, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

/* The like, to listen or to probe with. */
static inline int cmhd_stream_socket(int family) {
  return socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}
static inline int cmhd_is_closed(enum MHD_ConnectionNotificationCode change) {
  return change == MHD_CONNECTION_NOTIFY_CLOSED;
}
