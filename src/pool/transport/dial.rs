//! Connecting to an upstream: name, TCP and TLS, under one limit of time, with errors that say which part failed.
//!
//! awc calls this as its connector. It always believes the connection plain, so that TLS lies below [`Strict`].

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix_service::Service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::reach::ChosenBy;
use super::strict::Strict;
use super::wire::Wire;
use super::{LocalFuture, handshake};
use crate::messages::{FailureKind, Phase};

/// How long an address has to answer before the next is tried beside it.
const STAGGER: Duration = Duration::from_millis(250);
/// A path that acknowledges nothing for this long is dead, also below a stream that is silent for minutes.
#[cfg(target_os = "linux")]
const DEAD_PATH: Duration = Duration::from_secs(60);

/// Why there is no connection. Not a byte of a request was sent.
#[derive(Clone, Debug)]
pub(super) struct DialError {
    /// `Unreachable`, `Certificate` or `Timeout(Connect)`.
    pub(super) kind: FailureKind,
    /// The part that failed, and why.
    pub(super) detail: String,
    /// For the caller, where there is more to say than the kind does.
    pub(super) message: Option<&'static str>,
}

impl std::fmt::Display for DialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for DialError {}

impl DialError {
    fn unreachable(part: &str, why: impl std::fmt::Display) -> Self {
        Self { kind: FailureKind::Unreachable, detail: format!("{part}: {why}"), message: None }
    }
}

/// Dials for one upstream.
#[derive(Clone)]
pub(super) struct Dial {
    /// How to do TLS, where the upstream's URL is https.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// For name, TCP and TLS together.
    pub(super) limit: Duration,
    /// Which addresses may be connected to.
    pub(super) chosen_by: ChosenBy,
}

impl Service<ConnectInfo<http::Uri>> for Dial {
    type Response = Connection<http::Uri, Strict<Wire>>;
    type Error = ConnectError;
    type Future = LocalFuture<Result<Self::Response, ConnectError>>;

    actix_service::always_ready!();

    fn call(&self, to: ConnectInfo<http::Uri>) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move {
            let uri = to.request().clone();
            // Always `Io`: awc panics on `InvalidInput`, and only `Io` carries an error of ours through.
            let wire = dial.dial(&uri).await.map_err(|error| ConnectError::Io(io::Error::other(error)))?;
            let exact = matches!(wire, Wire::Plain(_));
            Ok(Connection::new(uri, Strict::new(wire, exact)))
        })
    }
}

impl Dial {
    async fn dial(&self, uri: &http::Uri) -> Result<Wire, DialError> {
        let host = bare(uri.host().unwrap_or_default());
        let port = uri.port_u16().unwrap_or(80);
        let part = Cell::new("DNS");
        tokio::time::timeout(self.limit, self.connect(host, port, &part)).await.unwrap_or_else(|_| {
            let detail = format!("{}: took longer than {:?}", part.get(), self.limit);
            let message = Some(match part.get() {
                "DNS" => "no connection in time: resolving the upstream's name took longer than connect_timeout",
                "TCP" => "no connection in time: reaching the upstream took longer than connect_timeout",
                _ => "no connection in time: the TLS handshake took longer than connect_timeout",
            });
            Err(DialError { kind: FailureKind::Timeout(Phase::Connect), detail, message })
        })
    }

    async fn connect(&self, host: &str, port: u16, part: &Cell<&'static str>) -> Result<Wire, DialError> {
        let addresses = within_reach(resolve(host, port).await?, self.chosen_by)?;
        part.set("TCP");
        let tcp = race(addresses, self.chosen_by).await?;
        let Some(config) = &self.tls else { return Ok(Wire::Plain(tcp)) };
        part.set("TLS");
        let name = ServerName::try_from(host.to_owned()).map_err(|error| DialError::unreachable("TLS", error))?;
        let tls = tokio_rustls::TlsConnector::from(config.clone()).connect(name, tcp).await;
        Ok(Wire::Tls(Box::new(tls.map_err(not_shaken)?)))
    }
}

/// A host without the brackets that an IPv6 address wears in a URL.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn not_shaken(error: io::Error) -> DialError {
    let (kind, message) = handshake::of(&error).map_or((FailureKind::Unreachable, None), handshake::meaning);
    DialError { kind, detail: format!("TLS: {error}"), message }
}

async fn resolve(host: &str, port: u16) -> Result<VecDeque<SocketAddr>, DialError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(VecDeque::from([SocketAddr::new(ip, port)]));
    }
    let unknown = |error| DialError {
        message: Some("the upstream's name cannot be resolved: check base_url"),
        ..DialError::unreachable("DNS", error)
    };
    let found = tokio::net::lookup_host((host, port)).await.map_err(unknown)?;
    let addresses = interleave(found);
    if addresses.is_empty() { Err(DialError::unreachable("DNS", "no address")) } else { Ok(addresses) }
}

/// Those of `addresses` that may be connected to. They are the ones that are: the name is not asked again.
fn within_reach(addresses: VecDeque<SocketAddr>, chosen_by: ChosenBy) -> Result<VecDeque<SocketAddr>, DialError> {
    let (within, beyond): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| chosen_by.may_reach(address.ip()));
    match beyond.front() {
        Some(address) if within.is_empty() => {
            Err(DialError::unreachable("DNS", format_args!("leads to {}, which is not public", address.ip())))
        }
        _ => Ok(within),
    }
}

/// Both families by turns, the resolver's first choice first: a family that leads nowhere costs one stagger, not many.
fn interleave(found: impl Iterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let found: Vec<_> = found.collect();
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = found.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = VecDeque::new();
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            return mixed;
        }
        mixed.extend(pair.0);
        mixed.extend(pair.1);
    }
}

/// The first address that takes a connection; each is started when the one before has failed or had its time.
async fn race(mut addresses: VecDeque<SocketAddr>, chosen_by: ChosenBy) -> Result<TcpStream, DialError> {
    let mut attempts = FuturesUnordered::new();
    let mut last = DialError::unreachable("TCP", "no address");
    loop {
        if let Some(address) = addresses.pop_front() {
            attempts.push(async move { (address, TcpStream::connect(address).await) });
        } else if attempts.is_empty() {
            return Err(last);
        }
        let next = async {
            if addresses.is_empty() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(STAGGER).await;
        };
        tokio::select! {
            biased;
            Some((address, connected)) = attempts.next() => match connected.and_then(|tcp| outward(tcp, chosen_by)).and_then(tuned) {
                Ok(tcp) => return Ok(tcp),
                Err(error) => last = DialError::unreachable("TCP", format_args!("{address}: {error}")),
            },
            () = next => {}
        }
    }
}

/// `tcp`, unless it must reach public addresses only and leads back to this very machine: what listens at a public address
/// of its own may be kept from the world by a firewall that does not stand between us.
fn outward(tcp: TcpStream, chosen_by: ChosenBy) -> io::Result<TcpStream> {
    let is_own = tcp.local_addr()?.ip() == tcp.peer_addr()?.ip();
    match chosen_by {
        ChosenBy::Caller if is_own => Err(io::Error::other("is an address of this machine")),
        _ => Ok(tcp),
    }
}

/// What neither awc nor tokio sets: no waiting for more to write, and an end to connections whose peer has vanished.
fn tuned(tcp: TcpStream) -> io::Result<TcpStream> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(&tcp);
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)).with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(DEAD_PATH))?;
    Ok(tcp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_the_resolvers_first_choice_leads() {
        let found = ["[::1]:1", "[::2]:1", "127.0.0.1:1", "[::3]:1"].map(|text| text.parse().unwrap());
        let order: Vec<String> = interleave(found.into_iter()).iter().map(SocketAddr::to_string).collect();
        assert_eq!(order, ["[::1]:1", "127.0.0.1:1", "[::2]:1", "[::3]:1"]);
    }

    #[tokio::test]
    async fn an_address_that_refuses_gives_way_to_the_next_at_once() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let open = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let both = VecDeque::from([closed, open.local_addr().unwrap()]);
        let tcp = race(both, ChosenBy::Operator).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), open.local_addr().unwrap());
        assert!(tcp.nodelay().unwrap());
        let socket = SockRef::from(&tcp);
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(DEAD_PATH));
        let error = race(VecDeque::from([closed]), ChosenBy::Operator).await.unwrap_err();
        assert_eq!(error.kind, FailureKind::Unreachable);
    }

    #[test]
    fn of_a_names_addresses_a_caller_reaches_the_public_ones_and_none_where_there_are_none() {
        let addresses = |texts: &[&str]| -> VecDeque<SocketAddr> { texts.iter().map(|t| t.parse().unwrap()).collect() };
        let mixed = addresses(&["127.0.0.1:80", "8.8.8.8:80", "[::1]:80", "[2606:4700::1]:80", "169.254.169.254:80"]);
        let within = within_reach(mixed.clone(), ChosenBy::Caller).unwrap();
        assert_eq!(within, addresses(&["8.8.8.8:80", "[2606:4700::1]:80"]));
        assert_eq!(within_reach(mixed.clone(), ChosenBy::TrustedCaller).unwrap(), mixed);

        let private = addresses(&["10.0.0.1:80", "[fd00::1]:80"]);
        let error = within_reach(private.clone(), ChosenBy::Caller).unwrap_err();
        assert_eq!(error.kind, FailureKind::Unreachable);
        assert_eq!(error.detail, "DNS: leads to 10.0.0.1, which is not public");
        assert_eq!(within_reach(private.clone(), ChosenBy::Operator).unwrap(), private);
    }

    #[tokio::test]
    async fn a_caller_does_not_reach_this_machine_by_a_public_address_of_its_own() {
        // Loopback stands for it: nothing else here is an own address, and what its kind is was asked before.
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = VecDeque::from([own.local_addr().unwrap()]);
        let error = race(addresses.clone(), ChosenBy::Caller).await.unwrap_err();
        assert!(error.detail.ends_with("is an address of this machine"), "{error}");
        race(addresses, ChosenBy::TrustedCaller).await.unwrap();
    }

    /// A full backlog, which on Linux swallows whoever connects.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_address_that_leads_nowhere_gives_way_after_the_stagger() {
        let nowhere = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        nowhere.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        nowhere.listen(0).unwrap();
        let address = nowhere.local_addr().unwrap().as_socket().unwrap();
        let _fills_it = TcpStream::connect(address).await.unwrap();

        let open = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let both = race(VecDeque::from([address, open.local_addr().unwrap()]), ChosenBy::Operator);
        let tcp = tokio::time::timeout(STAGGER * 40, both).await.expect("not the kernel's two minutes").unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), open.local_addr().unwrap());

        let dial = Dial { tls: None, limit: Duration::from_millis(50), chosen_by: ChosenBy::Operator };
        let error = dial.dial(&format!("http://{address}").parse().unwrap()).await.unwrap_err();
        assert_eq!(error.kind, FailureKind::Timeout(Phase::Connect));
        assert!(error.detail.starts_with("TCP"), "{error}");
    }
}
