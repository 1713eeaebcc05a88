//! `/v1/files`: what batches are read from and written to. An upload goes to disk as it comes, and a file from disk as it is
//! taken: neither is ever in memory whole.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_multipart::{Field, Multipart};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::error::PayloadError;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, guard as on, web};
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream;
use serde::{Deserialize, Serialize};

use super::batches::seconds;
use super::body::{Announced, Limit, Paced};
use super::guard::{self, Caller};
use super::pages::{Page, Query};
use super::{Shared, errors};
use crate::dispatcher::draining;
use crate::jobs::batches::{Batches, UPLOAD_BYTES, Upload};
use crate::messages::{Error, ErrorKind, FileId};
use crate::store::Ms;
use crate::store::files::{FileFilter, FileRecord, Purpose, Seal};

/// What a form may have beside its file.
const FORM_MAX_BYTES: usize = 64 * 1024;

/// The longest value of a field that is no file.
const FIELD_MAX_BYTES: usize = 1024;

/// The longest name of a file.
const NAME_MAX_BYTES: usize = 255;

/// How long an upload is kept whose caller does not say: as long as OpenAI keeps those of batches.
const KEEP_FOR: Ms = 30 * 86_400_000;

/// OpenAI's bounds of `expires_after`, in seconds: an hour and thirty days.
const EXPIRES_AFTER: std::ops::RangeInclusive<i64> = 3_600..=2_592_000;

/// The routes below a prefix.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    let reading = || web::route().guard(on::Any(on::Get()).or(on::Head()));
    let all = web::resource("/files").route(web::post().to(create)).route(reading().to(list));
    config.service(errors::only(all, "GET, HEAD, POST"));
    let single = web::resource("/files/{id}").route(web::delete().to(remove)).route(reading().to(one));
    config.service(errors::only(single, "DELETE, GET, HEAD"));
    config.service(errors::only(web::resource("/files/{id}/content").route(reading().to(content)), "GET, HEAD"));
}

/// When a file goes, as callers say it.
#[derive(Deserialize)]
pub(super) struct ExpiresAfter {
    anchor: Option<String>,
    seconds: Option<i64>,
}

impl ExpiresAfter {
    /// In milliseconds from the file's creation.
    ///
    /// # Errors
    /// `invalid_request` for another anchor, and beyond OpenAI's bounds.
    pub(super) fn ms(&self, param: &'static str) -> Result<Ms, Error> {
        let invalid = |what: String| Error::new(ErrorKind::InvalidRequest, what).with_param(param);
        if self.anchor.as_deref() != Some("created_at") {
            return Err(invalid(format!("`{param}` must have `created_at` as its anchor")));
        }
        match self.seconds {
            Some(seconds) if EXPIRES_AFTER.contains(&seconds) => Ok(seconds * 1_000),
            _ => {
                let (least, most) = EXPIRES_AFTER.into_inner();
                Err(invalid(format!("`{param}` must have `seconds` from {least} to {most}")))
            }
        }
    }
}

/// A request's body whose rest is still there when reading it has failed.
struct Shelved(Rc<RefCell<web::Payload>>);

impl Stream for Shelved {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(cx)
    }
}

async fn create(shared: web::Data<Shared>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let caller = Caller::of(&request);
    let payload = Rc::new(RefCell::new(payload));
    match upload(&shared, &request, &caller, Rc::clone(&payload)).await {
        Ok(file) => HttpResponse::Ok().json(Shown::of(&file)),
        Err(error) => {
            let rest = Rc::into_inner(payload).map(|rest| rest.into_inner().into_inner());
            errors::reply_unread(&error, &caller, rest)
        }
    }
}

/// Reads an upload to its end.
async fn upload(
    shared: &Shared,
    request: &HttpRequest,
    caller: &Caller,
    payload: Rc<RefCell<web::Payload>>,
) -> Result<FileRecord, Error> {
    if shared.is_draining() {
        return Err(draining());
    }
    let max_file = shared.doors().config.jobs.max_file;
    let limit = Limit { bytes: max_file.saturating_add(FORM_MAX_BYTES), key: MAX_FILE };
    let announced = Announced::within(request.headers(), limit)?;
    let mut admitted = shared.forebay.admit(0)?;
    admitted.grow(UPLOAD_BYTES)?;
    let coming = Rc::new(RefCell::new(Coming::Body(Paced::new(Shelved(payload), announced, limit))));
    let jobs = shared.forebay.jobs().await?;
    let batches = jobs.batches();
    let read = read_form(request.headers(), pieces(Rc::clone(&coming)), &batches, caller, max_file).await;
    let form = match (read, coming.replace(Coming::Taken)) {
        // What was wrong with the body is known here, and what is wrong with the form to its parser.
        (Err(_), Coming::Failed(error)) | (Err(error), _) => return Err(error),
        (Ok(form), Coming::Body(mut rest)) => {
            // What stands behind the form says nothing.
            while rest.next().await?.is_some() {}
            form
        }
        (Ok(form), _) => form,
    };
    guard::read_whole(request);
    form.seal(jobs.now()).await
}

const MAX_FILE: &str = "[jobs] max_file";

/// A body that a parser takes piece by piece.
enum Coming {
    Body(Paced<Shelved>),
    /// The next piece is being waited for, or there are no more.
    Taken,
    Failed(Error),
}

/// The pieces of a body; the error that ends them is left there.
fn pieces(coming: Rc<RefCell<Coming>>) -> impl Stream<Item = Result<Bytes, PayloadError>> + 'static {
    let pieces = stream::unfold(coming, |coming| async move {
        let Coming::Body(mut body) = coming.replace(Coming::Taken) else { return None };
        match body.next().await {
            Ok(piece) => {
                coming.replace(Coming::Body(body));
                piece.map(|piece| (Ok(piece), coming))
            }
            Err(error) => {
                coming.replace(Coming::Failed(error));
                Some((Err(PayloadError::Incomplete(None)), coming))
            }
        }
    });
    // The parser asks again behind the end.
    pieces.fuse()
}

/// An upload's form, all of it read.
struct Form {
    upload: Upload,
    name: Box<str>,
    keep_for: Ms,
}

impl Form {
    async fn seal(self, now: Ms) -> Result<FileRecord, Error> {
        let Self { upload, name, keep_for } = self;
        let expires_at = Some(now.saturating_add(keep_for));
        upload.seal(|file| Seal { file, name: (*name).into(), created_at: now, expires_at }).await
    }
}

/// Reads a form: its file goes to disk as it comes, in whatever order its fields are.
async fn read_form(
    headers: &HeaderMap,
    pieces: impl Stream<Item = Result<Bytes, PayloadError>> + 'static,
    batches: &Batches,
    caller: &Caller,
    max_file: usize,
) -> Result<Form, Error> {
    let mut form = Multipart::new(headers, pieces);
    let mut file: Option<(Upload, Box<str>)> = None;
    let (mut purpose, mut anchor, mut seconds) = (None, None, None);
    while let Some(field) = form.next().await {
        let mut field = field.map_err(|error| malformed(&error))?;
        match field.name().unwrap_or_default() {
            "file" if file.is_some() => return Err(invalid("file", "there must be one `file` only")),
            "file" => {
                let name = name_of(&field);
                file = Some((save(&mut field, batches, caller, max_file).await?, name));
            }
            "purpose" => purpose = Some(text(&mut field, "purpose").await?),
            "expires_after[anchor]" => anchor = Some(text(&mut field, "expires_after").await?),
            "expires_after[seconds]" => seconds = Some(text(&mut field, "expires_after").await?),
            // What nobody knows may mean something to somebody else.
            _ => drop(text(&mut field, "form").await?),
        }
    }
    match purpose.as_deref() {
        Some(purpose) if Purpose::of(purpose) == Some(Purpose::Batch) => {}
        Some(_) => return Err(invalid("purpose", "`purpose` must be \"batch\": forebay keeps no other files")),
        None => return Err(invalid("purpose", "`purpose` is missing; it must be \"batch\"")),
    }
    let keep_for = match (anchor, seconds) {
        (None, None) => KEEP_FOR,
        (anchor, seconds) => {
            let seconds = seconds.map(|seconds| seconds.trim().parse().unwrap_or(-1));
            ExpiresAfter { anchor, seconds }.ms("expires_after")?
        }
    };
    let (upload, name) = file.ok_or_else(|| invalid("file", "`file` is missing"))?;
    Ok(Form { upload, name, keep_for })
}

/// Puts the field's bytes on disk.
async fn save(field: &mut Field, batches: &Batches, caller: &Caller, max_file: usize) -> Result<Upload, Error> {
    let mut upload = batches.upload(caller.tenant.clone()).await?;
    while let Some(piece) = field.next().await {
        let piece = piece.map_err(|error| malformed(&error))?;
        if upload.len() + piece.len() as u64 > max_file as u64 {
            return Err(Limit { bytes: max_file, key: MAX_FILE }.exceeded());
        }
        upload.add(piece).await?;
    }
    Ok(upload)
}

/// The value of a field that is no file.
async fn text(field: &mut Field, param: &'static str) -> Result<String, Error> {
    let mut text = BytesMut::new();
    while let Some(piece) = field.next().await {
        let piece = piece.map_err(|error| malformed(&error))?;
        if text.len() + piece.len() > FIELD_MAX_BYTES {
            return Err(invalid(param, "a field that is no file is too long"));
        }
        text.extend_from_slice(&piece);
    }
    String::from_utf8(text.into()).map_err(|_| invalid(param, "a field is not text"))
}

/// The name a file has where it comes from, cut where it is very long.
fn name_of(field: &Field) -> Box<str> {
    let name = field.content_disposition().and_then(|disposition| disposition.get_filename());
    let name = name.filter(|name| !name.is_empty()).unwrap_or("upload.jsonl");
    let end = (0..=name.len().min(NAME_MAX_BYTES)).rev().find(|end| name.is_char_boundary(*end));
    name[..end.unwrap_or_default()].into()
}

fn invalid(param: &'static str, what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidRequest, what).with_param(param)
}

fn malformed(error: &actix_multipart::MultipartError) -> Error {
    Error::new(ErrorKind::InvalidRequest, format!("the body is no whole multipart/form-data form: {error}"))
}

async fn list(shared: web::Data<Shared>, request: HttpRequest) -> HttpResponse {
    let caller = Caller::of(&request);
    let found = async {
        let query = Query::of(&request);
        let (after, limit, oldest_first) = (query.after()?, query.limit(10_000, 10_000)?, query.is_oldest_first()?);
        let purpose = match query.get("purpose") {
            None => None,
            Some(name) => match Purpose::of(name) {
                Some(purpose) => Some(purpose),
                // Files of another purpose there are none.
                None => return Ok(Page::of(&[], limit, id_of, Shown::of)),
            },
        };
        let filter = FileFilter { tenant: caller.tenant.clone(), purpose, after, oldest_first, limit: limit + 1 };
        let found = shared.forebay.jobs().await?.batches().files(filter).await?;
        Ok(Page::of(&found, limit, id_of, Shown::of))
    };
    match found.await {
        Ok(page) => HttpResponse::Ok().json(page),
        Err(error) => errors::reply(&error, &caller),
    }
}

async fn one(shared: web::Data<Shared>, request: HttpRequest) -> HttpResponse {
    let caller = Caller::of(&request);
    let found = async { shared.forebay.jobs().await?.batches().file(id(&request)?, caller.tenant.clone()).await };
    match found.await {
        Ok(file) => HttpResponse::Ok().json(Shown::of(&file)),
        Err(error) => errors::reply(&error, &caller),
    }
}

async fn remove(shared: web::Data<Shared>, request: HttpRequest) -> HttpResponse {
    let caller = Caller::of(&request);
    let removed = async {
        let id = id(&request)?;
        shared.forebay.jobs().await?.batches().remove_file(id, caller.tenant.clone()).await?;
        Ok(Removed { id: id.to_string(), object: "file", deleted: true })
    };
    match removed.await {
        Ok(removed) => HttpResponse::Ok().json(removed),
        Err(error) => errors::reply(&error, &caller),
    }
}

async fn content(shared: web::Data<Shared>, request: HttpRequest) -> HttpResponse {
    let caller = Caller::of(&request);
    let found = async {
        let batches = shared.forebay.jobs().await?.batches();
        let file = batches.file(id(&request)?, caller.tenant.clone()).await?;
        Ok(Content { batches, id: file.id, bytes: file.bytes, at: 0, next: None })
    };
    match found.await {
        Ok(content) => HttpResponse::Ok()
            .insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")))
            .body(BoxBody::new(content)),
        Err(error) => errors::reply(&error, &caller),
    }
}

fn id(request: &HttpRequest) -> Result<FileId, Error> {
    let id = request.match_info().get("id").unwrap_or_default();
    id.parse().map_err(|_| Error::new(ErrorKind::NotFound, "no such file: what was given is no id of one"))
}

fn id_of(file: &FileRecord) -> String {
    file.id.to_string()
}

/// A file's bytes on their way to a caller, one row at a time.
struct Content {
    batches: Batches,
    id: FileId,
    bytes: u64,
    at: u64,
    next: Option<LocalBoxFuture<'static, Result<Option<Bytes>, Error>>>,
}

impl MessageBody for Content {
    type Error = Error;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.bytes)
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let this = self.get_mut();
        if this.at >= this.bytes {
            return Poll::Ready(None);
        }
        let (id, at) = (this.id, this.at);
        let next = this.next.get_or_insert_with(|| {
            let batches = this.batches.clone();
            Box::pin(async move { batches.piece(id, at).await })
        });
        let piece = ready!(next.as_mut().poll(cx));
        this.next = None;
        Poll::Ready(Some(piece.and_then(|piece| {
            // Its bytes go some time after it is removed: a caller who is still at it hears that it is not whole.
            let piece = piece.ok_or_else(|| Error::new(ErrorKind::NotFound, "the file was removed"))?;
            this.at += piece.len() as u64;
            Ok(piece)
        })))
    }
}

/// A file in OpenAI's form.
#[derive(Serialize)]
struct Shown {
    object: &'static str,
    id: String,
    purpose: &'static str,
    filename: String,
    bytes: u64,
    created_at: i64,
    expires_at: Option<i64>,
    status: &'static str,
    status_details: Option<&'static str>,
}

impl Shown {
    fn of(file: &FileRecord) -> Self {
        Self {
            object: "file",
            id: file.id.to_string(),
            purpose: file.purpose.name(),
            filename: file.name.to_string(),
            bytes: file.bytes,
            created_at: seconds(file.created_at),
            expires_at: file.expires_at.map(seconds),
            status: "processed",
            status_details: None,
        }
    }
}

#[derive(Serialize)]
struct Removed {
    id: String,
    object: &'static str,
    deleted: bool,
}
