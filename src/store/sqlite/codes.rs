//! How small things stand in the file.

use std::sync::Arc;

use rusqlite::Row;
use rusqlite::types::Type;

use crate::messages::{BatchId, Endpoint, FileId, JobId, JobStatus, Priority, Usage};
use crate::store::batches::BatchStatus;
use crate::store::files::Purpose;

/// Nobody is the empty tenant, so that an index tells it from others.
pub(super) fn tenant(tenant: Option<&str>) -> &str {
    tenant.unwrap_or_default()
}

pub(super) fn tenant_of(row: &Row<'_>, at: &str) -> rusqlite::Result<Option<Arc<str>>> {
    let name: Arc<str> = row.get(at)?;
    Ok((!name.is_empty()).then_some(name))
}

pub(super) fn id_of(row: &Row<'_>, at: &str) -> rusqlite::Result<JobId> {
    match row.get(at)? {
        number @ 0.. => Ok(JobId::of(number)),
        _ => Err(odd(at)),
    }
}

pub(super) fn file_id_of(row: &Row<'_>, at: &str) -> rusqlite::Result<FileId> {
    match row.get(at)? {
        number @ 0.. => Ok(FileId::of(number)),
        _ => Err(odd(at)),
    }
}

pub(super) fn batch_id_of(row: &Row<'_>, at: &str) -> rusqlite::Result<BatchId> {
    match row.get(at)? {
        number @ 0.. => Ok(BatchId::of(number)),
        _ => Err(odd(at)),
    }
}

pub(super) fn purpose_of(row: &Row<'_>, at: &str) -> rusqlite::Result<Purpose> {
    Purpose::of(row.get_ref(at)?.as_str()?).ok_or_else(|| odd(at))
}

pub(super) fn batch_status_of(row: &Row<'_>, at: &str) -> rusqlite::Result<BatchStatus> {
    let name = row.get_ref(at)?.as_str()?;
    BatchStatus::ALL.into_iter().find(|status| status.name() == name).ok_or_else(|| odd(at))
}

pub(super) fn status_of(row: &Row<'_>, at: &str) -> rusqlite::Result<JobStatus> {
    let name = row.get_ref(at)?.as_str()?;
    JobStatus::ALL.into_iter().find(|status| status.name() == name).ok_or_else(|| odd(at))
}

pub(super) fn endpoint_of(row: &Row<'_>, at: &str) -> rusqlite::Result<Endpoint> {
    let path = row.get_ref(at)?.as_str()?;
    Endpoint::ALL.into_iter().find(|endpoint| endpoint.path() == path).ok_or_else(|| odd(at))
}

pub(super) fn priority(priority: Priority) -> i64 {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

pub(super) fn priority_of(row: &Row<'_>, at: &str) -> rusqlite::Result<Priority> {
    match row.get(at)? {
        0_i64 => Ok(Priority::High),
        1 => Ok(Priority::Normal),
        2 => Ok(Priority::Low),
        _ => Err(odd(at)),
    }
}

/// Tokens read, of them cached, written, and all; nothing where nothing is known.
pub(super) fn usage(usage: Option<Usage>) -> [Option<i64>; 4] {
    let Some(Usage { input_tokens, cached_input_tokens, output_tokens, total_tokens }) = usage else {
        return [None; 4];
    };
    [input_tokens, cached_input_tokens, output_tokens, total_tokens]
        .map(|tokens| Some(i64::try_from(tokens).unwrap_or(i64::MAX)))
}

pub(super) fn usage_of(row: &Row<'_>) -> rusqlite::Result<Option<Usage>> {
    let tokens = |at: &str| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(at)?.map(i64::unsigned_abs));
    let Some(input_tokens) = tokens("input_tokens")? else { return Ok(None) };
    Ok(Some(Usage {
        input_tokens,
        cached_input_tokens: tokens("cached_input_tokens")?.unwrap_or_default(),
        output_tokens: tokens("output_tokens")?.unwrap_or_default(),
        total_tokens: tokens("total_tokens")?.unwrap_or_default(),
    }))
}

/// A value that forebay never writes.
fn odd(column: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Null, format!("an odd {column}").into())
}
