//! Over pipes and in virtual time, with actix-http itself between the caller and the application.

use super::*;
use crate::clock::in_virtual_time;
use crate::gateway::guard::guard;
use crate::gateway::protocol::{Application, protocol};
use crate::gateway::testing::{caller, config, shared};
use crate::gateway::{app, stream};
use crate::messages::{self, CallId, Endpoint, Envelope, Error, ErrorKind, StreamSender};
use crate::telemetry::access::AccessLine;
use actix_service::{IntoServiceFactory, Service, ServiceFactory};
use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::{App, HttpRequest, HttpResponse, Route, middleware, web};
use bytes::Bytes;
use std::cell::RefCell;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The server's end of a pipe that notes how it is closed.
struct Pipe {
    end: DuplexStream,
    is_reset: Rc<Cell<bool>>,
    /// How often it was flushed: once whenever actix-http is polled.
    flushed: Rc<Cell<usize>>,
}

impl Socket for Pipe {
    fn reset_when_closed(&self) {
        self.is_reset.set(true);
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().end).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().end).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushed.set(self.flushed.get() + 1);
        Pin::new(&mut self.get_mut().end).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().end).poll_shutdown(cx)
    }
}

/// A caller, and the task that serves it.
struct Caller {
    pipe: DuplexStream,
    served: JoinHandle<Instant>,
    is_reset: Rc<Cell<bool>>,
    flushed: Rc<Cell<usize>>,
    start: Instant,
    stage: watch::Sender<Stage>,
}

/// What the kernel would hold between the two.
const PIPE_BYTES: usize = 4 * 1024;

/// Connects a caller to `application`.
async fn call<A, F>(application: A) -> Caller
where
    A: IntoServiceFactory<F, actix_http::Request>,
    F: Application,
    F::Future: 'static,
    <F::Service as Service<actix_http::Request>>::Future: 'static,
{
    let (stage, reached) = watch::channel(Stage::Open);
    let service = protocol(application).await.unwrap();
    let (pipe, end) = tokio::io::duplex(PIPE_BYTES);
    let (is_reset, flushed) = (Rc::default(), Rc::default());
    let end = Pipe { end, is_reset: Rc::clone(&is_reset), flushed: Rc::clone(&flushed) };
    let connection = Connection::new(end, reached);
    let served = actix_rt::spawn(async move {
        drop(service.call((connection, None)).await);
        clock::now()
    });
    Caller { pipe, served, is_reset, flushed, start: clock::now(), stage }
}

impl Caller {
    async fn send(&mut self, bytes: &str) {
        self.pipe.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// Sends `bytes` one by one, a second apart, until nobody takes them.
    async fn dribble(&mut self, bytes: impl Iterator<Item = u8>) {
        for byte in bytes {
            pause(1).await;
            if self.pipe.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    }

    /// Reads until `end` has come.
    async fn read_until(&mut self, end: &str) -> String {
        let mut all = Vec::new();
        while !all.ends_with(end.as_bytes()) {
            assert_ne!(self.pipe.read_buf(&mut all).await.unwrap(), 0, "{}", String::from_utf8_lossy(&all));
        }
        String::from_utf8(all).unwrap()
    }

    /// Reads to the connection's end.
    async fn read_to_end(&mut self) -> String {
        let mut all = Vec::new();
        self.pipe.read_to_end(&mut all).await.unwrap();
        String::from_utf8(all).unwrap()
    }

    /// Waits for the connection's end: after how many seconds, and whether it was a reset.
    async fn ended(self) -> (u64, bool) {
        let ended = self.served.await.unwrap();
        ((ended - self.start).as_secs(), self.is_reset.get())
    }
}

async fn pause(seconds: u64) {
    clock::until(clock::now() + Duration::from_secs(seconds)).await;
}

/// An application of one route, behind the guard.
async fn guarded(
    route: Route,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<BoxBody>,
        Error = actix_web::Error,
        InitError = (),
    >,
> {
    let shared = web::Data::new(shared(config()).await);
    App::new().app_data(shared).route("/", route).wrap(middleware::from_fn(guard))
}

const HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
const OK: &str = "{\"status\":\"ok\"}";

#[test]
fn a_head_that_dribbles_is_cut_be_it_the_first_or_a_later_one() {
    for earlier in 0..3 {
        in_virtual_time(async {
            let mut caller = call(app(shared(config()).await)).await;
            for _ in 0..earlier {
                caller.send(HEALTHZ).await;
                caller.read_until(OK).await;
            }
            caller.send("GET /healthz HTTP/1.1\r\nx-a: ").await;
            caller.dribble(std::iter::repeat_n(b'a', 1_000)).await;
            let (seconds, _) = caller.ended().await;
            assert!((19..=21).contains(&seconds), "{earlier} earlier: {seconds} s");
        });
    }
}

#[test]
fn empty_lines_before_a_later_head_are_part_of_it() {
    in_virtual_time(async {
        let mut caller = call(app(shared(config()).await)).await;
        caller.send(HEALTHZ).await;
        caller.read_until(OK).await;
        caller.dribble(std::iter::repeat_n([b'\r', b'\n'], 500).flatten()).await;
        assert!(caller.ended().await.0 <= 21);
    });
}

#[test]
fn a_head_in_pieces_within_its_time_is_served() {
    in_virtual_time(async {
        let mut caller = call(app(shared(config()).await)).await;
        for _ in 0..5 {
            for piece in HEALTHZ.as_bytes().chunks(4) {
                pause(1).await;
                caller.pipe.write_all(piece).await.unwrap();
            }
            caller.read_until(OK).await;
            pause(70).await;
        }
    });
}

#[test]
fn the_rest_of_a_body_that_nobody_reads_is_not_waited_for_without_end() {
    for chunk in ["", "1\r\na\r\n"] {
        in_virtual_time(async {
            let mut caller = call(app(shared(config()).await)).await;
            caller.send("GET /healthz HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
            caller.read_until(OK).await;
            caller.dribble(chunk.bytes().cycle().take(10_000)).await;
            let (seconds, _) = caller.ended().await;
            assert!(seconds <= if chunk.is_empty() { 76 } else { 22 }, "{seconds} s");
        });
    }
}

#[test]
fn an_idle_connection_is_closed_in_order_when_its_time_is_over() {
    in_virtual_time(async {
        let mut caller = call(app(shared(config()).await)).await;
        for _ in 0..3 {
            caller.send(HEALTHZ).await;
            caller.read_until(OK).await;
            if clock::now() < caller.start + Duration::from_secs(140) {
                pause(70).await;
            }
        }
        assert_eq!(caller.read_to_end().await, "");
        let (seconds, is_reset) = caller.ended().await;
        assert!((2 * 70 + 74..=2 * 70 + 76).contains(&seconds) && !is_reset, "{seconds} s, reset: {is_reset}");
    });
}

#[test]
fn a_call_that_waits_for_an_hour_is_answered() {
    in_virtual_time(async {
        let slow = web::get().to(|| async {
            pause(3_600).await;
            "late"
        });
        let mut caller = call(guarded(slow).await).await;
        for _ in 0..2 {
            // A part of the next head may come meanwhile.
            caller.send(GET).await;
            caller.send("GET / HT").await;
            caller.read_until("late").await;
            caller.send("TP/1.1\r\nhost: localhost\r\n\r\n").await;
            caller.read_until("late").await;
        }
    });
}

#[test]
fn pipelined_calls_that_take_their_time_are_answered_in_order() {
    in_virtual_time(async {
        let slow = web::get().to(|request: HttpRequest| async move {
            pause(50).await;
            format!("<{}>", request.query_string())
        });
        let mut caller = call(guarded(slow).await).await;
        let ask = |n| format!("GET /?n={n} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        caller.send(&(0..10).map(ask).collect::<String>()).await;
        for n in 0..10 {
            caller.read_until(&format!("<n={n}>")).await;
        }
    });
}

#[test]
fn a_silent_stream_goes_on_with_its_comments() {
    in_virtual_time(async {
        let (send, mut caller) = streaming().await;
        caller.send(GET).await;
        for _ in 0..240 {
            caller.read_until(": keep-alive\n\n\r\n").await;
        }
        assert!((clock::now() - caller.start).as_secs() >= 3_600);
        send.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
        send.end(Ok(()));
        caller.read_until("9\r\ndata: 1\n\n\r\n0\r\n\r\n").await;
    });
}

/// A caller of an application that streams, once, what is sent to the sender.
async fn streaming() -> (StreamSender, Caller) {
    let (send, events) = messages::stream();
    let events = Rc::new(RefCell::new(Some(events)));
    let route = web::get().to(move || {
        let events = events.borrow_mut().take().unwrap();
        let line = AccessLine::new(CallId::new(), Endpoint::ChatCompletions, None);
        async move { HttpResponse::Ok().body(stream::body(events, caller(Envelope::OpenAi), line)) }
    });
    (send, call(guarded(route).await).await)
}

const STREAM: &str = "GET / HTTP/1.0\r\n\r\n";
const LARGE: usize = 60 << 20;

/// A caller of an application that answers with so many bytes.
async fn answering(bytes: usize) -> Caller {
    let body = Bytes::from(vec![b'x'; bytes]);
    let mut caller = call(guarded(web::get().to(move || std::future::ready(body.clone()))).await).await;
    caller.send(GET).await;
    caller
}

#[test]
fn a_caller_that_reads_nothing_of_a_large_answer_is_cut_with_a_reset() {
    in_virtual_time(async {
        assert_eq!(answering(LARGE).await.ended().await, (60, true));
    });
}

#[test]
fn a_caller_that_reads_nothing_of_a_stream_is_cut_and_the_stream_is_told() {
    in_virtual_time(async {
        let (send, mut caller) = streaming().await;
        caller.send(GET).await;
        let mut sent = 0;
        while send.send(Bytes::from(vec![b'x'; 1_000])).await.is_ok() {
            sent += 1_000;
        }
        assert!(sent < 64 * 1024, "{sent} bytes were taken");
        assert_eq!(caller.ended().await, (60, true));
    });
}

#[test]
fn a_caller_that_reads_slowly_but_steadily_has_all_of_its_answer() {
    in_virtual_time(async {
        let mut caller = answering(300_000).await;
        let mut piece = vec![0; 1_024];
        let mut read = 0;
        while read < 300_000 {
            pause(2).await;
            read += caller.pipe.read(&mut piece).await.unwrap();
        }
        assert!((clock::now() - caller.start).as_secs() > 500);
        caller.send(&GET.replace("GET", "HEAD")).await;
        caller.read_until("\r\n\r\n").await;
    });
}

#[test]
fn a_caller_that_reads_below_the_least_rate_is_cut() {
    in_virtual_time(async {
        let mut caller = answering(LARGE).await;
        let mut piece = [0; 100];
        loop {
            pause(1).await;
            // Every window takes some.
            if caller.served.is_finished() {
                break;
            }
            caller.pipe.read_exact(&mut piece).await.unwrap();
        }
        assert_eq!(caller.ended().await, (60, true));
    });
}

#[test]
fn a_caller_that_pauses_over_a_stream_and_reads_on_is_not_cut() {
    in_virtual_time(async {
        let (send, mut caller) = streaming().await;
        caller.send(GET).await;
        actix_rt::spawn(async move {
            for _ in 0..3_000 {
                send.send(Bytes::from(vec![b'x'; 100])).await.unwrap();
            }
            send.send(Bytes::from_static(b"data: [DONE]\n\n")).await.unwrap();
            send.end(Ok(()));
        });
        let mut piece = vec![0; 64 * 1024];
        for _ in 0..3 {
            pause(55).await;
            let mut read = 0;
            while read < 50_000 {
                read += caller.pipe.read(&mut piece).await.unwrap();
            }
        }
        caller.read_until("data: [DONE]\n\n\r\n0\r\n\r\n").await;
    });
}

#[test]
fn a_caller_of_http_1_0_gets_a_stream_without_chunks_that_ends_with_the_connection() {
    for more in ["", "connection: keep-alive\r\n"] {
        in_virtual_time(async {
            let (send, mut caller) = streaming().await;
            send.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
            send.end(Ok(()));
            caller.send(&STREAM.replace("\r\n\r\n", &format!("\r\n{more}\r\n"))).await;
            let answer = caller.read_to_end().await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
            assert!(!head.contains("chunked") && !head.contains("content-length") && !head.contains("keep-alive"));
            assert_eq!(body, "data: 1\n\n");
            assert!(!caller.ended().await.1, "an end in order");
        });
    }
}

#[test]
fn a_broken_stream_to_a_caller_of_http_1_0_ends_with_its_error_event_and_a_reset() {
    in_virtual_time(async {
        let (send, mut caller) = streaming().await;
        send.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
        send.end(Err(Error::new(ErrorKind::UpstreamUnavailable, "cut off")));
        caller.send(STREAM).await;
        let answer = caller.read_to_end().await;
        assert!(answer.contains("\r\n\r\ndata: 1\n\ndata: {\"error\":{"), "{answer}");
        assert!(caller.ended().await.1, "its end would be taken for that of the stream");
    });
}

#[test]
fn a_dribbling_body_is_answered_408_and_its_connection_closed_be_it_the_first_or_a_later_one() {
    for earlier in 0..2 {
        for framing in ["content-length: 100000", "transfer-encoding: chunked"] {
            in_virtual_time(async {
                let mut caller = call(app(shared(config()).await)).await;
                for _ in 0..earlier {
                    caller.send(HEALTHZ).await;
                    caller.read_until(OK).await;
                }
                let begun = clock::now();
                caller.send(&format!("POST /v1/embeddings HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n")).await;
                let (mut read, mut write) = tokio::io::split(caller.pipe);
                let dribble = actix_rt::spawn(async move {
                    for byte in "1\r\na\r\n".bytes().cycle() {
                        pause(1).await;
                        if write.write_all(&[byte]).await.is_err() {
                            return;
                        }
                    }
                });
                let mut answer = String::new();
                read.read_to_string(&mut answer).await.unwrap();
                assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
                assert!(answer.contains("connection: close") && answer.contains("body_timeout"), "{answer}");
                assert!((clock::now() - begun).as_secs() <= 27);
                caller.served.await.unwrap();
                dribble.await.unwrap();
            });
        }
    }
}

#[test]
fn a_caller_that_takes_its_answer_late_is_let_go_behind_it_while_the_gateway_closes() {
    for stage in [Stage::Closing, Stage::Cutting] {
        in_virtual_time(async {
            let mut caller = answering(100_000).await;
            pause(1).await;
            caller.stage.send_replace(stage);
            pause(1).await;
            let answer = caller.read_to_end().await;
            assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.len(), 100_000);
            assert_eq!(caller.ended().await, (2, false), "{stage:?}");
        });
    }
}

#[test]
fn the_rest_of_a_refused_body_may_still_come_until_the_gateway_cuts() {
    in_virtual_time(async {
        let mut caller = call(app(shared(config()).await)).await;
        caller.send("POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999\r\n\r\n").await;
        caller.read_until("}}").await;
        caller.stage.send_replace(Stage::Closing);
        for _ in 0..3 {
            pause(1).await;
            caller.send("the rest").await;
        }
        caller.stage.send_replace(Stage::Cutting);
        let (seconds, is_reset) = caller.ended().await;
        assert!(seconds <= 3 && !is_reset, "{seconds} s, reset: {is_reset}");
    });
}

/// A caller whose calls wait until `true` is sent.
async fn held() -> (watch::Sender<bool>, Caller) {
    let (open, held) = watch::channel(false);
    let route = web::get().to(move || {
        let mut held = held.clone();
        async move {
            held.wait_for(|open| *open).await.unwrap();
            "answered"
        }
    });
    (open, call(guarded(route).await).await)
}

/// Reads so many answers.
async fn answers(pipe: impl AsyncRead + Unpin, number: usize) {
    let mut pipe = tokio::io::BufReader::new(pipe);
    let (mut line, mut answers) = (String::new(), 0);
    while answers < number {
        line.clear();
        assert_ne!(pipe.read_line(&mut line).await.unwrap(), 0, "{answers} answers");
        // A body has no line break: the next head begins right behind it.
        answers += line.matches("HTTP/1.1 200").count();
    }
}

/// Lets others do what they can do at the moment, without an end to the moment.
async fn let_others_work() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_caller_that_sends_far_ahead_keeps_nobody_busy_and_has_all_of_its_answers() {
    in_virtual_time(async {
        const CALLS: usize = 5_000;
        let (open, caller) = held().await;
        let (read, mut write) = tokio::io::split(caller.pipe);
        let sent = actix_rt::spawn(async move { write.write_all(GET.repeat(CALLS).as_bytes()).await.map(|()| write) });
        let_others_work().await;
        let flushed = caller.flushed.get();
        let_others_work().await;
        assert_eq!(caller.flushed.get(), flushed, "it was polled for nothing");
        open.send_replace(true);
        answers(read, CALLS).await;
        drop(sent.await.unwrap().unwrap());
    });
}

#[test]
fn calls_sent_ahead_in_bits_are_all_answered_at_once() {
    in_virtual_time(async {
        let (open, mut caller) = held().await;
        for calls in [1, 20, 5] {
            caller.send(&GET.repeat(calls)).await;
            let_others_work().await;
        }
        open.send_replace(true);
        answers(&mut caller.pipe, 26).await;
        assert_eq!(clock::now(), caller.start);
    });
}

#[tokio::test(start_paused = true)]
async fn however_much_room_there_is_no_more_than_a_turns_worth_is_read_in_a_turn() {
    let (mut pipe, end) = tokio::io::duplex(10 * TURN_BYTES);
    pipe.write_all(&[b'x'; 10 * TURN_BYTES]).await.unwrap();
    let (_stage, reached) = watch::channel(Stage::Open);
    let mut connection = Connection::new(Pipe { end, is_reset: Rc::default(), flushed: Rc::default() }, reached);
    for room in [TURN_BYTES, 100 * TURN_BYTES] {
        let mut bytes = vec![0; room];
        let mut buffer = ReadBuf::new(&mut bytes);
        let mut turn = |cx: &mut Context<'_>| Pin::new(&mut connection).poll_read(cx, &mut buffer);
        std::future::poll_fn(|cx| {
            assert!(turn(cx).is_ready());
            assert!(turn(cx).is_pending(), "the next turn is another's");
            Poll::Ready(())
        })
        .await;
        assert_eq!(buffer.filled().len(), TURN_BYTES);
    }
}
