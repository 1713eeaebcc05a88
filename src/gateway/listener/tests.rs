//! Over real sockets: what becomes of connections.

use super::*;
use crate::gateway::guard::guard;
use crate::gateway::stream;
use crate::gateway::testing::{caller, config, shared};
use crate::messages::{self, CallId, Endpoint, Envelope, Error, ErrorKind, StreamBody};
use crate::telemetry::access::AccessLine;
use actix_web::{App, HttpResponse, middleware, web};
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;

/// A gateway on the test's own thread.
async fn serve_app<A, F>(application: A) -> GatewayHandle
where
    A: IntoServiceFactory<F, Request> + 'static,
    F: Application,
    F::Future: 'static,
    <F::Service as Service<Request>>::Future: 'static,
{
    let listener = Gateway::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let (handle, mut doorways) = GatewayHandle::new(listener, 1, usize::MAX).unwrap();
    let listener = handle.listener.try_clone().unwrap();
    actix_rt::spawn(accept(listener, application, doorways.remove(0)));
    handle
}

async fn gateway() -> GatewayHandle {
    serve_app(app(shared(config()).await)).await
}

/// Sends `request` and reads to the connection's end.
async fn exchange(gateway: &GatewayHandle, request: &str) -> String {
    let mut socket = TcpStream::connect(gateway.local_addr()).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    socket.read_to_end(&mut all).await.unwrap();
    String::from_utf8(all).unwrap()
}

/// Reads until `end` has come.
async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).ends_with(end) {
        assert_ne!(socket.read_buf(&mut all).await.unwrap(), 0, "{}", String::from_utf8_lossy(&all));
    }
    String::from_utf8(all).unwrap()
}

const HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[actix_web::test]
async fn a_port_in_use_is_an_error_at_once() {
    let listener = Gateway::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let error = Gateway::bind(listener.local_addr().unwrap()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[actix_web::test]
async fn a_connection_is_kept_for_more_than_one_call_and_closed_when_the_gateway_stops() {
    let gateway = gateway().await;
    let mut socket = TcpStream::connect(gateway.local_addr()).await.unwrap();
    for _ in 0..2 {
        socket.write_all(HEALTHZ.as_bytes()).await.unwrap();
        let response = read_until(&mut socket, "{\"status\":\"ok\"}").await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    }
    let addr = gateway.local_addr();
    gateway.close(clock::now()).await;
    assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(TcpStream::connect(addr).await.is_err());
}

#[actix_web::test]
async fn a_connection_whose_body_was_refused_is_closed_instead_of_drained() {
    let gateway = gateway().await;
    for framing in ["content-length: 99999999999", "transfer-encoding: chunked\r\ncontent-encoding: gzip"] {
        let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{framing}\r\n\r\n");
        let mut socket = TcpStream::connect(gateway.local_addr()).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        let response = read_until(&mut socket, "}}").await.to_lowercase();
        assert!(response.starts_with("http/1.1 4"), "{response}");
        assert!(response.contains("connection: close"), "{response}");
    }
}

#[actix_web::test]
async fn connect_is_answered_and_its_connection_closed() {
    let gateway = gateway().await;
    let mut socket = TcpStream::connect(gateway.local_addr()).await.unwrap();
    socket.write_all(b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n").await.unwrap();
    let response = read_until(&mut socket, "}}").await;
    assert!(response.contains("connection: close"), "{response}");
    assert!(response.starts_with("HTTP/1.1 405 "), "{response}");
}

/// An application whose one route streams what `events` brings.
async fn streaming(events: StreamBody) -> GatewayHandle {
    let events = Rc::new(RefCell::new(Some(events)));
    let handler = move || {
        let events = events.borrow_mut().take().unwrap();
        let line = AccessLine::new(CallId::new(), Endpoint::ChatCompletions, None);
        async move { HttpResponse::Ok().body(stream::body(events, caller(Envelope::OpenAi), line)) }
    };
    let shared = web::Data::new(shared(config()).await);
    let app = App::new().app_data(shared).route("/", web::get().to(handler));
    serve_app(app.wrap(middleware::from_fn(guard))).await
}

const STREAM: &str = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[actix_web::test]
async fn a_whole_stream_ends_its_chunked_coding() {
    let (send, events) = messages::stream();
    let gateway = streaming(events).await;
    send.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
    send.end(Ok(()));
    let mut socket = TcpStream::connect(gateway.local_addr()).await.unwrap();
    socket.write_all(STREAM.as_bytes()).await.unwrap();
    let response = read_until(&mut socket, "0\r\n\r\n").await;
    assert!(response.ends_with("9\r\ndata: 1\n\n\r\n0\r\n\r\n"), "{response}");
}

#[actix_web::test]
async fn a_broken_stream_delivers_its_error_event_and_does_not_end_its_chunked_coding() {
    let (send, events) = messages::stream();
    let gateway = streaming(events).await;
    send.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
    send.end(Err(Error::new(ErrorKind::UpstreamUnavailable, "cut off")));
    let response = exchange(&gateway, STREAM).await;
    assert!(response.contains("data: {\"error\":{"), "{response}");
    assert!(!response.contains("0\r\n\r\n"), "{response}");
}

#[actix_web::test]
async fn a_caller_that_hangs_up_on_a_silent_stream_is_noticed() {
    let (send, events) = messages::stream();
    let gateway = streaming(events).await;
    let mut socket = TcpStream::connect(gateway.local_addr()).await.unwrap();
    socket.write_all(STREAM.as_bytes()).await.unwrap();
    send.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
    read_until(&mut socket, "data: 1\n\n\r\n").await;
    drop(socket);
    send.closed().await;
}

#[actix_web::test]
async fn a_caller_that_hangs_up_on_a_waiting_call_is_noticed() {
    let (held, dropped) = oneshot::channel::<()>();
    let (begun, waiting) = oneshot::channel::<()>();
    let parts = Rc::new(RefCell::new(Some((held, begun))));
    let handler = move || {
        let (held, begun) = parts.borrow_mut().take().unwrap();
        async move {
            begun.send(()).unwrap();
            std::future::pending::<()>().await;
            drop(held);
            HttpResponse::Ok().finish()
        }
    };
    let gateway = serve_app(App::new().route("/", web::get().to(handler))).await;
    let mut socket = TcpStream::connect(gateway.local_addr()).await.unwrap();
    socket.write_all(STREAM.as_bytes()).await.unwrap();
    waiting.await.unwrap();
    drop(socket);
    assert!(dropped.await.is_err());
}

#[actix_web::test]
async fn a_stream_is_let_finish_when_the_gateway_stops() {
    let (send, events) = messages::stream();
    let gateway = streaming(events).await;
    let addr = gateway.local_addr();
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(STREAM.as_bytes()).await.unwrap();
    send.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
    read_until(&mut socket, "data: 1\n\n\r\n").await;
    let closed = actix_rt::spawn(gateway.close(clock::now() + Duration::from_secs(60)));
    // The door is shut: whoever comes now is refused.
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    send.send(Bytes::from_static(b"data: 2\n\n")).await.unwrap();
    send.end(Ok(()));
    closed.await.unwrap();
    let mut rest = String::new();
    socket.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "9\r\ndata: 2\n\n\r\n0\r\n\r\n");
}

#[actix_web::test]
async fn what_was_sent_before_the_door_is_shut_is_answered_on_connections_old_and_new() {
    use std::io::{Read as _, Write as _};
    let gateway = gateway().await;
    let addr = gateway.local_addr();
    let mut kept = TcpStream::connect(addr).await.unwrap();
    kept.write_all(HEALTHZ.as_bytes()).await.unwrap();
    read_until(&mut kept, "{\"status\":\"ok\"}").await;
    let mut kept = kept.into_std().unwrap();
    // The gateway shares this thread: until the test waits, it sees neither the request nor the new connections.
    kept.write_all(HEALTHZ.as_bytes()).unwrap();
    let mut new = [std::net::TcpStream::connect(addr).unwrap(), std::net::TcpStream::connect(addr).unwrap()];
    new.iter_mut().for_each(|socket| socket.write_all(HEALTHZ.as_bytes()).unwrap());
    gateway.close(clock::now()).await;
    kept.set_nonblocking(false).unwrap();
    for socket in new.iter_mut().chain([&mut kept]) {
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("{\"status\":\"ok\"}"), "{answer:?}");
    }
}

#[actix_web::test]
async fn a_connection_that_never_says_a_whole_request_does_not_keep_the_gateway() {
    let gateway = gateway().await;
    let mut half = TcpStream::connect(gateway.local_addr()).await.unwrap();
    half.write_all(b"GET /heal").await.unwrap();
    let mut silent = TcpStream::connect(gateway.local_addr()).await.unwrap();
    let begun = clock::now();
    gateway.close(clock::now() + Duration::from_secs(3_600)).await;
    assert!(clock::now() - begun < Duration::from_secs(60));
    assert_eq!(half.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
}

#[cfg(target_os = "linux")]
#[actix_web::test]
async fn newcomers_are_kept_out_while_those_who_have_come_are_heard() {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let mut early = std::net::TcpStream::connect(addr).unwrap();
    keep_newcomers_out(&listener);
    // Not refused and not let in: a successor may hear it when it asks again.
    let late = std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(100)).unwrap_err();
    assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    early.write_all(b"here").unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    let mut said = [0; 4];
    accepted.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"here");
}

#[actix_web::test]
async fn a_blocked_thread_does_not_keep_the_gateway_from_its_end() {
    let listener = Gateway::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let (gateway, mut doorways) = GatewayHandle::new(listener, 2, usize::MAX).unwrap();
    let listener = gateway.listener.try_clone().unwrap();
    actix_rt::spawn(accept(listener, app(shared(config()).await), doorways.remove(0)));
    let mut idle = TcpStream::connect(gateway.local_addr()).await.unwrap();
    // The other thread has its doorway and does nothing with it.
    assert!(by(clock::now() + Duration::from_secs(60), gateway.close(clock::now())).await);
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    drop(doorways);
}
