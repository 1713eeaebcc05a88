//! Lists in pages, as OpenAI's clients turn them: `?after=ID&limit=N&order=asc`, answered with `first_id`, `last_id` and
//! `has_more`.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use actix_web::{HttpRequest, web};
use serde::Serialize;

use crate::messages::{Error, ErrorKind};

/// What a caller asks of a list.
pub(super) struct Query(HashMap<String, String>);

impl Query {
    /// What stands behind the path's `?`. Of a name that stands there twice, the last counts.
    pub(super) fn of(request: &HttpRequest) -> Self {
        let pairs = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
        Self(pairs.map(|pairs| pairs.into_inner().into_iter().collect()).unwrap_or_default())
    }

    /// The value of `name`; an empty one is none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| &**value).filter(|value| !value.is_empty())
    }

    /// The value of `name` as `read` understands it.
    ///
    /// # Errors
    /// `invalid_request` that says what it `must_be`.
    pub(super) fn read<T>(
        &self,
        name: &'static str,
        must_be: &dyn Display,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let refused = || Error::new(ErrorKind::InvalidRequest, format!("`{name}` must be {must_be}")).with_param(name);
        read(value).map(Some).ok_or_else(refused)
    }

    /// The id behind which the page begins.
    ///
    /// # Errors
    /// `invalid_request` for what is no id of this kind.
    pub(super) fn after<T: FromStr>(&self) -> Result<Option<T>, Error> {
        self.read("after", &"the id of something in the list", |id| id.parse().ok())
    }

    /// How long the page may be.
    ///
    /// # Errors
    /// `invalid_request` for no number from 1 to `max`.
    pub(super) fn limit(&self, default: usize, max: usize) -> Result<usize, Error> {
        let read = |value: &str| value.parse().ok().filter(|limit| (1..=max).contains(limit));
        Ok(self.read("limit", &format_args!("a number from 1 to {max}"), read)?.unwrap_or(default))
    }

    /// Whether the oldest come first.
    ///
    /// # Errors
    /// `invalid_request` for another order than `asc` and `desc`.
    pub(super) fn is_oldest_first(&self) -> Result<bool, Error> {
        let read = |value: &str| match value {
            "asc" => Some(true),
            "desc" => Some(false),
            _ => None,
        };
        Ok(self.read("order", &"asc or desc", read)?.unwrap_or_default())
    }
}

/// A page of a list.
#[derive(Serialize)]
pub(super) struct Page<T> {
    object: &'static str,
    data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl<T> Page<T> {
    /// A page of at most `limit` of `found`, which holds one more when there is more.
    pub(super) fn of<'a, R>(
        found: &'a [R],
        limit: usize,
        id: impl Fn(&R) -> String,
        show: impl Fn(&'a R) -> T,
    ) -> Self {
        let has_more = found.len() > limit;
        let found = &found[..found.len().min(limit)];
        Self {
            object: "list",
            first_id: found.first().map(&id),
            last_id: found.last().map(&id),
            data: found.iter().map(show).collect(),
            has_more,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::JobId;
    use actix_web::test::TestRequest;

    fn query(text: &str) -> Query {
        Query::of(&TestRequest::with_uri(&format!("/v1/x?{text}")).to_http_request())
    }

    #[test]
    fn a_query_is_read_leniently_where_it_does_not_matter_and_strictly_where_it_does() {
        let asked = query("after=job_0000000000000007&limit=5&order=asc&unknown=1&limit=6");
        assert_eq!(asked.after::<JobId>().unwrap(), Some(JobId::of(7)));
        assert_eq!(asked.limit(20, 100).unwrap(), 6);
        assert!(asked.is_oldest_first().unwrap());
        let nothing = query("after=&limit=");
        assert_eq!((nothing.after::<JobId>().unwrap(), nothing.limit(20, 100).unwrap()), (None, 20));
        for (text, param) in [("after=x", "after"), ("limit=0", "limit"), ("limit=101", "limit"), ("order=up", "order")]
        {
            let asked = query(text);
            let errors = [asked.after::<JobId>().err(), asked.limit(20, 100).err(), asked.is_oldest_first().err()];
            let error = errors.into_iter().flatten().next().unwrap();
            assert_eq!((error.code(), error.param()), ("invalid_request", Some(param)), "{text}");
        }
    }

    #[test]
    fn a_page_says_whether_there_is_more() {
        let page = |found: Vec<u8>| serde_json::to_value(Page::of(&found, 2, u8::to_string, |n| *n)).unwrap();
        let shown =
            serde_json::json!({"object": "list", "data": [1, 2], "first_id": "1", "last_id": "2", "has_more": true});
        assert_eq!(page(vec![1, 2, 3]), shown);
        let empty =
            serde_json::json!({"object": "list", "data": [], "first_id": null, "last_id": null, "has_more": false});
        assert_eq!(page(vec![]), empty);
    }
}
