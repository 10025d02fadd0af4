//! `GET /metrics`: the counters for Prometheus, over HTTP.
//!
//! The server asks the supervisor's loop for a [`Snapshot`] with each scrape, and holds nothing of it. A client that is slow,
//! silent or hostile costs one of a few connections for a few seconds, and nobody else anything.

mod exposition;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

pub(super) use exposition::Snapshot;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time;

/// Connections at once; the next one is closed at once.
const CONNECTIONS: usize = 16;
/// How long a connection may take, from its begin to the last byte of the answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a request, of which `/metrics` needs some hundred; the least that hyper takes.
const REQUEST_BYTES: usize = 8_192;
/// Header lines of a request.
const REQUEST_HEADERS: usize = 32;
/// How long to wait when no connection can be taken, for want of descriptors perhaps.
const PAUSE: Duration = Duration::from_millis(100);
/// What the answer is (the `OpenMetrics` specification, version 1.0.0).
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// A scrape that the supervisor is to answer.
#[derive(Debug)]
pub(super) struct Scrape {
    /// Where the answer goes. That nobody waits for it any more is no error.
    pub(super) reply: oneshot::Sender<Snapshot>,
}

/// The address that `text` says to listen on: `9464` and `:9464` on the loopback interface, or `192.0.2.1:9464`, `[::]:9464`.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| {
        format!("\"{text}\" is not an address to listen on: give a port such as 9464, or an address with one such as [::1]:9464")
    })
}

/// Listens; answers nothing yet.
#[derive(Debug)]
pub(super) struct MetricsServer {
    listener: TcpListener,
}

impl MetricsServer {
    /// Listens on `address`. Must be called within the runtime.
    ///
    /// # Errors
    /// Where the address is not this host's, or is taken.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        // The standard library lets a port be used again that old connections still occupy.
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        // Whom that lets in is the caller's to say.
        tracing::info!("metrics at http://{}/metrics", listener.local_addr()?);
        Ok(Self { listener })
    }

    /// The address that it listens on.
    #[cfg(test)]
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until it is dropped. What is asked of the supervisor goes through `scrapes`.
    pub(super) async fn serve(self, scrapes: mpsc::Sender<Scrape>) {
        let free = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!("take a connection for metrics: {error}");
                    time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&free).try_acquire_owned() else { continue };
            let scrapes = scrapes.clone();
            tokio::spawn(async move {
                // The deadline ends whatever the client, or the supervisor, does not.
                let _ = time::timeout(DEADLINE, answer(stream, scrapes)).await;
                drop(permit);
            });
        }
    }
}

/// Answers the one request of a connection.
async fn answer(stream: TcpStream, scrapes: mpsc::Sender<Scrape>) {
    let service = service_fn(|request: Request<Incoming>| {
        let scrapes = scrapes.clone();
        async move { Ok::<_, Infallible>(respond(request.method(), request.uri().path(), &scrapes).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.keep_alive(false).max_buf_size(REQUEST_BYTES).max_headers(REQUEST_HEADERS);
    http.timer(TokioTimer::new()).header_read_timeout(DEADLINE);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!("answer a request for metrics: {error}");
    }
}

async fn respond(method: &Method, path: &str, scrapes: &mpsc::Sender<Scrape>) -> Response<Full<Bytes>> {
    if path != "/metrics" {
        return response(StatusCode::NOT_FOUND, PLAIN, "There is only /metrics here.\n".to_owned());
    }
    if *method != Method::GET && *method != Method::HEAD {
        let mut refusal =
            response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "There is only GET here.\n".to_owned());
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match scrape(scrapes).await {
        Some(text) => response(StatusCode::OK, OPEN_METRICS, text),
        None => response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "The relay is about to end.\n".to_owned()),
    }
}

/// What the supervisor says; nothing when it says nothing any more. Many rules take long to write down, which is not the
/// supervisor's to do.
async fn scrape(scrapes: &mpsc::Sender<Scrape>) -> Option<String> {
    let (reply, answer) = oneshot::channel();
    scrapes.send(Scrape { reply }).await.ok()?;
    let snapshot = answer.await.ok()?;
    tokio::task::spawn_blocking(|| exposition::text(snapshot)).await.ok()?.ok()
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests;
