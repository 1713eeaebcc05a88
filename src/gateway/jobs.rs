//! `/v1/jobs`: requests that can wait are accepted, looked at, waited for and called off.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, guard, web};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::body::{self, Announced};
use super::guard::{self as gate, Caller};
use super::pages::{Page, Query};
use super::{Shared, errors};
use crate::config::{did_you_mean, parse_duration};
use crate::dispatcher::draining;
use crate::jobs::{Shown, Whose};
use crate::messages::{Endpoint, Error, ErrorKind, Job, JobId, JobStatus, Priority, Request, json};
use crate::store::jobs::{JobFilter, JobRecord};

/// The fields of a submission.
const FIELDS: [&str; 7] = ["body", "endpoint", "webhook", "priority", "timeout", "key", "at_most_once"];

/// The longest that a caller may wait for a job in one call.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Jobs listed where nobody says how many, and at most.
const LISTED: usize = 20;
const MOST_LISTED: usize = 100;

/// The routes below a prefix.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    let reading = || web::route().guard(guard::Any(guard::Get()).or(guard::Head()));
    let all = web::resource("/jobs").route(web::post().to(submit)).route(reading().to(list));
    config.service(errors::only(all, "GET, HEAD, POST"));
    let one = web::resource("/jobs/{id}").route(reading().to(look)).route(web::delete().to(cancel));
    config.service(errors::only(one, "DELETE, GET, HEAD"));
}

async fn submit(shared: web::Data<Shared>, request: HttpRequest, mut payload: web::Payload) -> HttpResponse {
    let caller = Caller::of(&request);
    let job = match read(&shared, &request, &caller, &mut payload).await {
        Ok(job) => job,
        Err(error) => return errors::reply_unread(&error, &caller, payload.into_inner()),
    };
    let accepted = match shared.forebay.jobs().await {
        Ok(jobs) => jobs.submit(&job, &shared.forebay.config()).await,
        Err(error) => Err(error),
    };
    match accepted {
        Ok(accepted) => {
            let status = if accepted.is_old { StatusCode::OK } else { StatusCode::ACCEPTED };
            shown(status, &Shown::from(&accepted.record))
        }
        Err(error) => errors::reply(&error, &caller),
    }
}

async fn look(shared: web::Data<Shared>, request: HttpRequest) -> HttpResponse {
    let caller = Caller::of(&request);
    let looked = async {
        let id = id(&request)?;
        let within = wait(&request)?;
        let jobs = shared.forebay.jobs().await?;
        let whose = Whose::Tenants(caller.tenant.clone());
        match within {
            Some(within) => jobs.wait(id, whose, within).await,
            None => jobs.look(id, whose).await,
        }
    };
    match looked.await {
        Ok(record) => shown(StatusCode::OK, &Shown::from(&record)),
        Err(error) => errors::reply(&error, &caller),
    }
}

async fn cancel(shared: web::Data<Shared>, request: HttpRequest) -> HttpResponse {
    let caller = Caller::of(&request);
    let cancelled = async { shared.forebay.jobs().await?.cancel(id(&request)?, caller.tenant.clone()).await };
    match cancelled.await {
        Ok(record) => shown(StatusCode::OK, &Shown::from(&record)),
        Err(error) => errors::reply(&error, &caller),
    }
}

async fn list(shared: web::Data<Shared>, request: HttpRequest) -> HttpResponse {
    let caller = Caller::of(&request);
    let listed = async {
        let filter = filter(&request, caller.tenant.clone())?;
        let limit = filter.limit - 1;
        Ok((shared.forebay.jobs().await?.list(filter).await?, limit))
    };
    match listed.await {
        Ok((jobs, limit)) => {
            let page = Page::of(&jobs, limit, |job: &JobRecord| job.id.to_string(), Shown::from);
            shown(StatusCode::OK, &page)
        }
        Err(error) => errors::reply(&error, &caller),
    }
}

fn shown(status: StatusCode, what: &impl Serialize) -> HttpResponse {
    HttpResponse::build(status).insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store"))).json(what)
}

/// Reads what is submitted.
async fn read(
    shared: &Shared,
    request: &HttpRequest,
    caller: &Caller,
    payload: &mut web::Payload,
) -> Result<Job, Error> {
    if shared.is_draining() {
        return Err(draining());
    }
    let max = shared.doors().config.server.max_body;
    let announced = Announced::read(request.headers(), max)?;
    let mut admitted = shared.forebay.admit(0)?;
    let bytes = body::read(payload, announced, max, |more| admitted.grow(more)).await?;
    gate::read_whole(request);
    job(&bytes, caller.tenant.clone())
}

/// The job that `bytes` ask for.
fn job(bytes: &Bytes, tenant: Option<Arc<str>>) -> Result<Job, Error> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| invalid(format!("The body is not UTF-8 from byte {} on: send UTF-8.", error.valid_up_to())))?;
    let mut told: [Option<&RawValue>; FIELDS.len()] = [None; FIELDS.len()];
    let mut problem = None;
    json::each_field(text, |key, value| {
        let found = match FIELDS.iter().position(|field| *field == key) {
            Some(at) if told[at].replace(value).is_some() => {
                invalid(format!("`{key}` stands in the job more than once: send it once.")).with_param(key.to_owned())
            }
            Some(_) => return,
            None => unknown(key),
        };
        problem.get_or_insert(found);
    })
    .map_err(|error| invalid(format!("The body is not a JSON object: {}.", syntax(&error))))?;
    if let Some(problem) = problem {
        return Err(problem);
    }
    let [body, endpoint, webhook, priority, timeout, key, at_most_once] =
        told.map(|value| value.filter(|value| !json::is_null(value)));
    let body = body.ok_or_else(|| {
        invalid("`body` is missing: give the request to make, such as {\"model\": ..., \"messages\": [...]}.")
            .with_param("body")
    })?;
    let endpoint = match endpoint {
        Some(value) => self::endpoint(&string(value, "endpoint")?)?,
        None => Endpoint::ChatCompletions,
    };
    if !json::is_object(body) {
        return Err(invalid("`body` must be a JSON object.").with_param("body"));
    }
    let mut request = Request::new(endpoint, bytes.slice_ref(body.get().as_bytes()))
        .map_err(|error| match error.param() {
            Some(param) => {
                let param = format!("body.{param}");
                error.with_param(param)
            }
            None => error.with_param("body"),
        })?
        .with_tenant(tenant);
    if let Some(value) = priority {
        request = request.with_priority(self::priority(&string(value, "priority")?)?);
    }
    let mut job = Job::new(request);
    if let Some(value) = webhook {
        job = job.webhook(string(value, "webhook")?);
    }
    if let Some(value) = key {
        job = job.key(string(value, "key")?);
    }
    if let Some(value) = timeout {
        let timeout = parse_duration(&string(value, "timeout")?)
            .map_err(|problem| invalid(format!("`timeout` {problem}.")).with_param("timeout"))?;
        job = job.timeout(timeout);
    }
    match at_most_once.map(RawValue::get) {
        None | Some("false") => Ok(job),
        Some("true") => Ok(job.at_most_once()),
        Some(_) => Err(invalid("`at_most_once` must be true or false.").with_param("at_most_once")),
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidRequest, message)
}

/// What is wrong with the syntax, and nothing of what was sent: serde_json's words for a value of the wrong type repeat it.
fn syntax(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Syntax | serde_json::error::Category::Eof => error.to_string(),
        _ => "it is another kind of value".to_owned(),
    }
}

/// A field that no submission has.
fn unknown(key: &str) -> Error {
    /// A name is repeated up to this many characters.
    const SHOWN: usize = 64;
    let shown: String = key.chars().take(SHOWN).collect();
    let fix = match did_you_mean(key, FIELDS) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("a job has {}.", FIELDS.join(", ")),
    };
    let message = format!("`{}` is no field of a job: {fix}", shown.escape_debug());
    invalid(message).with_param(shown)
}

fn string(value: &RawValue, field: &'static str) -> Result<String, Error> {
    let text = json::string(value).map(|text| text.into_owned());
    text.ok_or_else(|| invalid(format!("`{field}` must be a string.")).with_param(field))
}

fn endpoint(path: &str) -> Result<Endpoint, Error> {
    Endpoint::of_v1_path(path).ok_or_else(|| {
        let known: Vec<String> = Endpoint::ALL.into_iter().map(Endpoint::v1_path).collect();
        let fix = match did_you_mean(path, known.iter().map(String::as_str)) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("it must be one of {}.", known.join(", ")),
        };
        invalid(format!("`endpoint` is none that jobs can go to: {fix}")).with_param("endpoint")
    })
}

fn priority(name: &str) -> Result<Priority, Error> {
    match name {
        "high" => Ok(Priority::High),
        "normal" => Ok(Priority::Normal),
        "low" => Ok(Priority::Low),
        _ => Err(invalid("`priority` must be high, normal or low.").with_param("priority")),
    }
}

/// The job that the path names.
fn id(request: &HttpRequest) -> Result<JobId, Error> {
    let id = request.match_info().get("id").unwrap_or_default();
    id.parse().map_err(|_| Error::new(ErrorKind::NotFound, "there is no such job; ids look like job_0123456789abcdef"))
}

/// How long the caller wants to wait, if at all.
fn wait(request: &HttpRequest) -> Result<Option<Duration>, Error> {
    let query = Query::of(request);
    let Some(wait) = query.get("wait") else { return Ok(None) };
    let bad = |problem: &str| invalid(format!("`wait` {problem}.")).with_param("wait");
    let wait = parse_duration(wait).map_err(|problem| bad(&problem))?;
    let too_long = || bad(&format!("is above {} s: ask again instead", LONGEST_WAIT.as_secs()));
    (wait <= LONGEST_WAIT).then_some(Some(wait)).ok_or_else(too_long)
}

/// Which jobs are asked for, and one more, to know whether there are more.
fn filter(request: &HttpRequest, tenant: Option<Arc<str>>) -> Result<JobFilter, Error> {
    let query = Query::of(request);
    let names = format!("one of {}", JobStatus::ALL.map(JobStatus::name).join(", "));
    let status = |name: &str| JobStatus::ALL.into_iter().find(|status| status.name() == name);
    Ok(JobFilter {
        tenant,
        status: query.read("status", &names, status)?,
        after: query.after()?,
        limit: query.limit(LISTED, MOST_LISTED)? + 1,
    })
}
