//! The measure: what actix-web and awc cost by themselves when they only pass on. Tuned as well as forebay is (no time
//! limits, no limit on connections, no redirects, `TCP_NODELAY`), and bodies are relayed as streams, never collected.

use actix_web::body::SizedStream;
use actix_web::http::header::{self, HeaderName};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use awc::{Client, Connector};

use crate::processes::announce;

/// Serves until whoever started it is gone.
pub(crate) fn run(upstream: &str) {
    let base = format!("http://{upstream}");
    let served = actix_web::rt::System::new().block_on(async move {
        let server = HttpServer::new(move || {
            let connector = Connector::new().limit(4096);
            let client = Client::builder()
                .connector(connector)
                .disable_timeout()
                .disable_redirects()
                .no_default_headers()
                .finish();
            App::new().app_data(web::Data::new((client, base.clone()))).default_service(web::to(pass_on))
        })
        .workers(1)
        .tcp_nodelay(true)
        .client_request_timeout(std::time::Duration::ZERO)
        .disable_signals()
        .bind(("127.0.0.1", 0))?;
        announce(server.addrs()[0]);
        server.run().await
    });
    served.expect("a server");
}

async fn pass_on(
    request: HttpRequest,
    payload: web::Payload,
    upstream: web::Data<(Client, String)>,
) -> Result<HttpResponse, Box<dyn std::error::Error>> {
    let (client, base) = upstream.get_ref();
    let mut forward = client.request(request.method().clone(), format!("{base}{}", request.uri())).no_decompress();
    for (name, value) in request.headers().iter().filter(|(name, _)| !is_of_the_connection(name)) {
        forward.headers_mut().append(name.clone(), value.clone());
    }
    let answer = match length(request.headers().get(header::CONTENT_LENGTH)) {
        Some(length) => forward.send_body(SizedStream::new(length, payload)).await,
        None => forward.send_stream(payload).await,
    };
    let answer = answer.map_err(|error| error.to_string())?;
    let mut response = HttpResponse::build(answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| !is_of_the_connection(name)) {
        response.append_header((name.clone(), value.clone()));
    }
    Ok(match length(answer.headers().get(header::CONTENT_LENGTH)) {
        Some(length) => response.body(SizedStream::new(length, answer)),
        None => response.streaming(answer),
    })
}

fn length(value: Option<&header::HeaderValue>) -> Option<u64> {
    value?.to_str().ok()?.parse().ok()
}

fn is_of_the_connection(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::CONTENT_LENGTH | header::HOST | header::TRANSFER_ENCODING)
}
