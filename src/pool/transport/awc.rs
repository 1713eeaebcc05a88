//! The transport over awc, HTTP/1.1 only.
//!
//! awc keeps connections, writes requests and parses answers. Name, TCP and TLS are ours ([`Dial`]), and so is a watch
//! over the bytes between them and awc ([`super::strict`]), because awc alone mixes answers up.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use awc::error::PayloadError;
use awc::{Client, ClientRequest, ClientResponse, Connector};
use bytes::Bytes;
use futures_core::Stream;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
    USER_AGENT,
};

use super::dial::Dial;
use super::faults::{incomplete, unanswered};
use super::pieces::InPieces;
use super::tls::Trust;
use super::trace::{Exchange, scope};
use super::{ChosenBy, HttpRequest, HttpResponse, LocalFuture, Transport, TransportError, TransportFactory};
use crate::clock::{self, Instant};
use crate::messages::{Authorities, FailureKind, Headers, Sent, Upstream};

const AGENT: &str = concat!("forebay/", env!("CARGO_PKG_VERSION"));

/// How long an unused connection is kept: below the 60 s after which common load balancers close one, so that we are
/// mostly the first to, and a request is not sent into a connection being closed. Peers that close sooner are noticed
/// when the connection is taken up again.
const KEEP_ALIVE: Duration = Duration::from_secs(50);
/// How long a client, and any connection, is taken up again at all: so that a name that moves is followed. And awc looks
/// at a kept connection only when it wants one to the same host, so connections to a host that nothing is sent to any
/// more would stay open forever, did they not go with their client.
pub(super) const LIFETIME: Duration = Duration::from_secs(600);
/// Requests in flight for one upstream on one thread, before awc would make them wait: never. Waiting is the
/// dispatcher's business, and awc has no limit of time for it.
const NO_LIMIT: usize = 1 << 20;
/// URLs whose parts are remembered. There are a few to an upstream, unless a path should name something of the caller's.
const MAX_PLACES: usize = 64;
/// awc's limit on connecting, out of the way of ours.
const NO_TIMEOUT: Duration = Duration::from_secs(400 * 86_400);

/// The transport that goes over the network. Its TLS configurations are shared by all the threads that ask.
///
/// An `awc` feature that brings roots of its own (`rustls-0_23-*-roots`), enabled by an embedding program, makes awc ask
/// for a process-wide crypto provider; forebay itself needs none.
pub fn http() -> TransportFactory {
    let trust = Arc::new(Trust::default());
    Arc::new(move || Rc::new(AwcTransport::new(trust.clone())))
}

/// Exchanges of one thread.
pub(crate) struct AwcTransport {
    trust: Arc<Trust>,
    /// A client for each upstream: its connections, and what they are made with. Few enough to look through.
    clients: Rc<RefCell<Vec<Entry>>>,
    /// The parts of URLs called lately: reading one costs more than a look here.
    places: RefCell<HashMap<String, Place>>,
}

/// The connections to one upstream.
struct Entry {
    upstream: Arc<str>,
    /// awc sees only plain connections, so one pool must not hold both sorts.
    tls: bool,
    connect: Duration,
    authorities: Authorities,
    chosen_by: ChosenBy,
    made: Instant,
    client: Client,
}

impl Entry {
    fn is_for(&self, upstream: &Upstream, tls: bool) -> bool {
        *self.upstream == *upstream.name && self.tls == tls
    }

    /// Whether it dials as the configuration has it now: a reload may have changed that.
    fn is_current(&self, upstream: &Upstream, chosen_by: ChosenBy) -> bool {
        self.connect == upstream.timeouts.connect
            && self.authorities == upstream.authorities
            && self.chosen_by == chosen_by
    }
}

impl AwcTransport {
    fn new(trust: Arc<Trust>) -> Self {
        Self { trust, clients: Rc::default(), places: RefCell::default() }
    }

    /// The client of `upstream`, made anew where a reload has changed how it dials.
    fn client(&self, upstream: &Upstream, tls: bool, chosen_by: ChosenBy) -> Result<Client, TransportError> {
        let mut clients = self.clients.borrow_mut();
        let now = clock::now();
        clients.retain(|entry| now.saturating_duration_since(entry.made) < LIFETIME); // what is in flight goes on
        let at = clients.iter().position(|entry| entry.is_for(upstream, tls));
        if let Some(at) = at
            && clients[at].is_current(upstream, chosen_by)
        {
            return Ok(clients[at].client.clone());
        }
        let config =
            match tls {
                true => Some(self.trust.config(&upstream.authorities).map_err(|error| {
                    TransportError::new(FailureKind::Unreachable, Sent::No, format!("TLS: {error}"))
                })?),
                false => None,
            };
        let client = client(Dial { tls: config, limit: upstream.timeouts.connect, chosen_by });
        let entry = Entry {
            upstream: upstream.name.clone(),
            tls,
            connect: upstream.timeouts.connect,
            authorities: upstream.authorities.clone(),
            chosen_by,
            made: now,
            client: client.clone(),
        };
        match at {
            Some(at) => clients[at] = entry,
            None => clients.push(entry),
        }
        Ok(client)
    }

    fn place(&self, url: String) -> Result<Place, TransportError> {
        let mut places = self.places.borrow_mut();
        if let Some(place) = places.get(&url) {
            return Ok(place.clone());
        }
        let place = Place::read(&url)?;
        if places.len() >= MAX_PLACES {
            places.clear();
        }
        places.insert(url, place.clone());
        Ok(place)
    }

    fn prepare(&self, request: HttpRequest) -> Result<(ClientRequest, Bytes, bool), TransportError> {
        let chosen_by = request.chosen_by;
        // Callers choose many places, which are not worth remembering, and whose connections must not be collected here.
        let is_usual = chosen_by == ChosenBy::Operator;
        let place = if is_usual { self.place(request.url)? } else { Place::read(&request.url)? };
        let mut post = self.client(&request.upstream, place.tls, chosen_by)?.post(place.uri).no_decompress();
        if !is_usual {
            post = post.force_close();
        }
        let headers = post.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT)); // the upstream's own configuration may name another
        let mut named_agent = false;
        for (name, value) in request.headers.into_iter().filter(|(name, _)| !is_ours(name)) {
            if name == USER_AGENT && !std::mem::replace(&mut named_agent, true) {
                headers.insert(USER_AGENT, value);
            } else {
                headers.append(name, value);
            }
        }
        headers.insert(HOST, place.host);
        // Bodies are passed on as they come, and nobody here unpacks them.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Ok((post, request.body, place.tls))
    }
}

fn client(dial: Dial) -> Client {
    let connector = Connector::new()
        .connector(dial)
        .limit(NO_LIMIT)
        .timeout(NO_TIMEOUT)
        .conn_keep_alive(KEEP_ALIVE)
        .conn_lifetime(LIFETIME);
    // A redirect would carry the API key along; limits of time are the pool's.
    Client::builder().connector(connector).disable_timeout().disable_redirects().no_default_headers().finish()
}

/// Headers that belong to the connection, which is ours and awc's. "Expect" among them: its answer is swallowed below.
fn is_ours(name: &HeaderName) -> bool {
    [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, UPGRADE, TE, EXPECT, ACCEPT_ENCODING].contains(name)
}

impl Transport for AwcTransport {
    fn send(&self, request: HttpRequest) -> LocalFuture<Result<HttpResponse, TransportError>> {
        let upstream = request.upstream.clone();
        let prepared = self.prepare(request);
        let clients = self.clients.clone();
        Box::pin(async move {
            let (post, body, tls) = prepared?;
            let exchange = Rc::new(Exchange::default());
            let answer = match scope(exchange.clone(), post.send_body(InPieces(body))).await {
                Ok(answer) => answer,
                Err(error) => return Err(unanswered(error, &exchange)),
            };
            if answer.status().is_informational() {
                // Cannot be: these are taken out below awc. Were it so, its connections would hand out each other's
                // answers, and none of them may be used again.
                tracing::error!(upstream = %upstream.name, "an interim answer was taken for the answer: a defect");
                clients.borrow_mut().retain(|entry| !entry.is_for(&upstream, tls));
                let detail = "an interim answer in place of the answer";
                return Err(TransportError::new(FailureKind::Malformed, exchange.sent(), detail));
            }
            let headers =
                answer.headers().iter().map(|(name, value)| (name.clone(), value.clone())).collect::<Headers>();
            Ok(HttpResponse::new(answer.status().as_u16(), headers, Box::pin(Body { answer: Some(answer), exchange })))
        })
    }
}

/// Where a request goes.
#[derive(Clone)]
struct Place {
    tls: bool,
    /// As awc is to see it: always http, always with a port.
    uri: http::Uri,
    /// As the upstream is to see it.
    host: HeaderValue,
}

impl Place {
    fn read(url: &str) -> Result<Self, TransportError> {
        let unusable = |why: &str| TransportError::new(FailureKind::Unreachable, Sent::No, format!("URL: {why}"));
        let given: http::Uri = url.parse().map_err(|_| unusable("not a URL"))?;
        let tls = match given.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(unusable("neither http nor https")),
        };
        let host = given.host().filter(|host| !host.is_empty()).ok_or_else(|| unusable("no host"))?;
        let usual = if tls { 443 } else { 80 };
        let port = match given.port_u16() {
            Some(port) => port,
            // "h:99999" has no port for this parser, and must not go to the usual one.
            None if given.authority().is_some_and(|all| !all.as_str().ends_with(host)) => {
                return Err(unusable("not a port"));
            }
            None => usual,
        };
        let authority = format!("{host}:{port}");
        // awc would leave out :443 of plain http and :80 of https too, which are not the usual ports there.
        let shown = if port == usual { host } else { &authority };
        let shown = HeaderValue::from_str(shown).map_err(|_| unusable("a host that cannot stand in a header"))?;
        let path = given.path_and_query().map_or("/", |path| path.as_str());
        let uri = http::Uri::builder().scheme("http").authority(authority.as_str()).path_and_query(path).build();
        Ok(Self { tls, uri: uri.map_err(|_| unusable("not a URL"))?, host: shown })
    }
}

/// An answer's body. Reading it to its `None` gives the connection back; dropping it before closes the connection.
struct Body<S> {
    /// Gone after an error, and the connection with it.
    answer: Option<ClientResponse<S>>,
    exchange: Rc<Exchange>,
}

impl<S> Stream for Body<S>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    type Item = Result<Bytes, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(answer) = &mut self.answer else { return Poll::Ready(None) };
        let item = match ready!(Pin::new(answer).poll_next(cx)) {
            Some(Ok(chunk)) => return Poll::Ready(Some(Ok(chunk))),
            Some(Err(error)) => Some(Err(incomplete(error, &self.exchange))),
            None => None,
        };
        self.answer = None;
        Poll::Ready(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn awc_sees_plain_http_and_the_upstream_its_own_name() {
        for (url, uri, host, tls) in [
            ("https://api.openai.com/v1/x?y=z", "http://api.openai.com:443/v1/x?y=z", "api.openai.com", true),
            ("https://h:80/", "http://h:80/", "h:80", true),
            ("http://h:443/", "http://h:443/", "h:443", false),
            ("http://h", "http://h:80/", "h", false),
            ("https://[::1]/v1", "http://[::1]:443/v1", "[::1]", true),
            ("https://[::1]:8443/v1", "http://[::1]:8443/v1", "[::1]:8443", true),
            ("http://user:secret@h/x", "http://h:80/x", "h", false),
        ] {
            let place = Place::read(url).unwrap();
            assert_eq!(
                (place.uri.to_string(), place.host.to_str().unwrap(), place.tls),
                (uri.into(), host, tls),
                "{url}"
            );
        }
        for url in ["ftp://h/", "h", "https://", "http://h:99999/", "/v1"] {
            let error = Place::read(url).err().expect(url);
            assert_eq!((error.kind, error.sent), (FailureKind::Unreachable, Sent::No), "{url}");
        }
    }
}
