//! `/v1/batches`: OpenAI's Batch API, for every upstream.

use actix_web::{HttpRequest, HttpResponse, guard as on, web};
use bytes::Bytes;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::body::{self, Announced};
use super::guard::{self, Caller};
use super::pages::{Page, Query};
use super::{Shared, errors, files, idempotency};
use crate::dispatcher::draining;
use crate::jobs::batches::Ask;
use crate::messages::{BatchId, Error, ErrorKind, FileId};
use crate::providers::batch_line;
use crate::store::Ms;
use crate::store::batches::{BatchFilter, BatchRecord, BatchStatus};

/// A request for a batch is no longer.
const ASK_MAX_BYTES: usize = 64 * 1024;

/// OpenAI's limits of `metadata`.
const METADATA_MAX: usize = 16;
const METADATA_KEY_MAX_CHARS: usize = 64;
const METADATA_VALUE_MAX_CHARS: usize = 512;

/// The only one that OpenAI knows.
const WINDOW: &str = "24h";

/// The routes below a prefix.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    let reading = || web::route().guard(on::Any(on::Get()).or(on::Head()));
    let all = web::resource("/batches").route(web::post().to(create)).route(reading().to(list));
    config.service(errors::only(all, "GET, HEAD, POST"));
    config.service(errors::only(web::resource("/batches/{id}").route(reading().to(one)), "GET, HEAD"));
    config.service(errors::only(web::resource("/batches/{id}/cancel").route(web::post().to(cancel)), "POST"));
}

/// What a caller asks for.
#[derive(Deserialize)]
struct Asked<'a> {
    input_file_id: Option<String>,
    endpoint: Option<String>,
    completion_window: Option<String>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    output_expires_after: Option<files::ExpiresAfter>,
}

async fn create(shared: web::Data<Shared>, request: HttpRequest, mut payload: web::Payload) -> HttpResponse {
    let caller = Caller::of(&request);
    let body = match read(&shared, &request, &mut payload).await {
        Ok(body) => body,
        Err(error) => return errors::reply_unread(&error, &caller, payload.into_inner()),
    };
    let made = async {
        let mut ask = ask(&body)?;
        ask.tenant.clone_from(&caller.tenant);
        ask.key = idempotency::key(request.headers())?.map(Into::into);
        let jobs = shared.forebay.jobs().await?;
        jobs.batches().create(ask, jobs.now()).await
    };
    answer(made.await, &caller)
}

async fn read(shared: &Shared, request: &HttpRequest, payload: &mut web::Payload) -> Result<Bytes, Error> {
    if shared.is_draining() {
        return Err(draining());
    }
    let max = shared.doors().config.server.max_body.min(ASK_MAX_BYTES);
    let announced = Announced::read(request.headers(), max)?;
    let mut admitted = shared.forebay.admit(0)?;
    let body = body::read(payload, announced, max, |more| admitted.grow(more)).await?;
    guard::read_whole(request);
    Ok(body)
}

/// Reads a request for a batch.
fn ask(body: &Bytes) -> Result<Ask, Error> {
    let invalid = |param: &'static str, what: String| Error::new(ErrorKind::InvalidRequest, what).with_param(param);
    let missing = |param: &'static str| invalid(param, format!("`{param}` is missing"));
    let asked: Asked<'_> = serde_json::from_slice(body).map_err(|error| {
        Error::new(ErrorKind::InvalidRequest, format!("the body is no request for a batch: {error}"))
    })?;
    let input = asked.input_file_id.ok_or_else(|| missing("input_file_id"))?;
    let input: FileId = input.parse().map_err(|_| {
        Error::new(ErrorKind::NotFound, "no such file: `input_file_id` is none of forebay's")
            .with_param("input_file_id")
    })?;
    let endpoint = asked.endpoint.ok_or_else(|| missing("endpoint"))?;
    let endpoint = batch_line::endpoint(&endpoint)
        .ok_or_else(|| invalid("endpoint", format!("`endpoint` must be {}", batch_line::endpoints())))?;
    match asked.completion_window.as_deref() {
        None => return Err(missing("completion_window")),
        Some(WINDOW) => {}
        Some(_) => return Err(invalid("completion_window", format!("`completion_window` must be {WINDOW:?}"))),
    }
    if let Some(metadata) = asked.metadata {
        check_metadata(metadata).map_err(|what| invalid("metadata", what))?;
    }
    let keep_files_for = asked.output_expires_after.map(|after| after.ms("output_expires_after")).transpose()?;
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, body).as_ref());
    Ok(Ask {
        tenant: None,
        key: None,
        digest: sum,
        input,
        endpoint,
        metadata: asked.metadata.map(|metadata| Bytes::copy_from_slice(metadata.get().as_bytes())),
        keep_files_for,
    })
}

fn check_metadata(metadata: &RawValue) -> Result<(), String> {
    let pairs: std::collections::BTreeMap<String, String> = serde_json::from_str(metadata.get())
        .map_err(|_| "`metadata` must be an object whose values are strings".to_owned())?;
    if pairs.len() > METADATA_MAX {
        return Err(format!("`metadata` must have at most {METADATA_MAX} keys"));
    }
    let is_fit = |(key, value): (&String, &String)| {
        key.chars().count() <= METADATA_KEY_MAX_CHARS && value.chars().count() <= METADATA_VALUE_MAX_CHARS
    };
    match pairs.iter().all(is_fit) {
        true => Ok(()),
        false => Err(format!(
            "`metadata` must have keys of at most {METADATA_KEY_MAX_CHARS} and values of at most {METADATA_VALUE_MAX_CHARS} characters"
        )),
    }
}

async fn list(shared: web::Data<Shared>, request: HttpRequest) -> HttpResponse {
    let caller = Caller::of(&request);
    let found = async {
        let query = Query::of(&request);
        let (after, limit) = (query.after()?, query.limit(20, 100)?);
        let filter = BatchFilter { tenant: caller.tenant.clone(), after, limit: limit + 1 };
        let found = shared.forebay.jobs().await?.batches().batches(filter).await?;
        Ok(Page::of(&found, limit, |batch| batch.id.to_string(), show))
    };
    match found.await {
        Ok(page) => HttpResponse::Ok().json(page),
        Err(error) => errors::reply(&error, &caller),
    }
}

async fn one(shared: web::Data<Shared>, request: HttpRequest) -> HttpResponse {
    let caller = Caller::of(&request);
    let found = async { shared.forebay.jobs().await?.batches().batch(id(&request)?, caller.tenant.clone()).await };
    answer(found.await, &caller)
}

async fn cancel(shared: web::Data<Shared>, request: HttpRequest) -> HttpResponse {
    let caller = Caller::of(&request);
    let cancelled = async {
        let (id, tenant) = (id(&request)?, caller.tenant.clone());
        let jobs = shared.forebay.jobs().await?;
        jobs.batches().cancel(id, tenant, jobs.now()).await
    };
    answer(cancelled.await, &caller)
}

fn id(request: &HttpRequest) -> Result<BatchId, Error> {
    let id = request.match_info().get("id").unwrap_or_default();
    id.parse().map_err(|_| Error::new(ErrorKind::NotFound, "no such batch: what was given is no id of one"))
}

fn answer(batch: Result<BatchRecord, Error>, caller: &Caller) -> HttpResponse {
    match batch {
        Ok(batch) => HttpResponse::Ok().json(show(&batch)),
        Err(error) => errors::reply(&error, caller),
    }
}

/// A batch in OpenAI's form.
#[derive(Serialize)]
struct Shown {
    id: String,
    object: &'static str,
    endpoint: String,
    model: Option<String>,
    errors: Option<Errors>,
    input_file_id: String,
    completion_window: &'static str,
    status: &'static str,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    created_at: i64,
    in_progress_at: Option<i64>,
    expires_at: i64,
    finalizing_at: Option<i64>,
    completed_at: Option<i64>,
    failed_at: Option<i64>,
    expired_at: Option<i64>,
    cancelling_at: Option<i64>,
    cancelled_at: Option<i64>,
    request_counts: Counts,
    usage: Usage,
    metadata: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Errors {
    object: &'static str,
    data: Box<RawValue>,
}

#[derive(Serialize)]
struct Counts {
    total: u32,
    completed: u32,
    failed: u32,
}

#[derive(Serialize)]
struct Usage {
    input_tokens: u64,
    input_tokens_details: InputDetails,
    output_tokens: u64,
    output_tokens_details: OutputDetails,
    total_tokens: u64,
}

#[derive(Serialize)]
struct InputDetails {
    cached_tokens: u64,
}

/// Upstreams count those among what they write; how many they were is not kept.
#[derive(Serialize)]
struct OutputDetails {
    reasoning_tokens: u64,
}

fn show(batch: &BatchRecord) -> Shown {
    let ended = |status| (batch.status == status).then_some(batch.times.ended).flatten().map(seconds);
    let is_over = batch.status.is_end();
    let counts = &batch.counts;
    Shown {
        id: batch.id.to_string(),
        object: "batch",
        endpoint: format!("/v1{}", batch.endpoint.path()),
        model: batch.model.as_deref().map(str::to_owned),
        errors: batch.errors.as_ref().and_then(raw).map(|data| Errors { object: "list", data }),
        input_file_id: batch.input.to_string(),
        completion_window: WINDOW,
        status: batch.status.name(),
        output_file_id: batch.output.filter(|_| is_over).map(|file| file.to_string()),
        error_file_id: batch.error.filter(|_| is_over).map(|file| file.to_string()),
        created_at: seconds(batch.created_at),
        in_progress_at: batch.times.in_progress.map(seconds),
        expires_at: seconds(batch.expires_at),
        finalizing_at: batch.times.finalizing.map(seconds),
        completed_at: ended(BatchStatus::Completed),
        failed_at: ended(BatchStatus::Failed),
        expired_at: ended(BatchStatus::Expired),
        cancelling_at: batch.times.cancelling.map(seconds),
        cancelled_at: ended(BatchStatus::Cancelled),
        request_counts: Counts { total: batch.total, completed: counts.completed, failed: counts.failed },
        usage: Usage {
            input_tokens: counts.usage.input_tokens,
            input_tokens_details: InputDetails { cached_tokens: counts.usage.cached_input_tokens },
            output_tokens: counts.usage.output_tokens,
            output_tokens_details: OutputDetails { reasoning_tokens: 0 },
            total_tokens: counts.usage.total(),
        },
        metadata: batch.metadata.as_ref().and_then(raw),
    }
}

/// Seconds of wall time since 1970, as OpenAI tells it.
pub(super) fn seconds(ms: Ms) -> i64 {
    ms.div_euclid(1_000)
}

/// JSON that was JSON when it was kept.
fn raw(json: &Bytes) -> Option<Box<RawValue>> {
    serde_json::from_slice(json).ok()
}
