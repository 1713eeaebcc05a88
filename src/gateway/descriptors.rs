//! File descriptors: every connection takes one, to a caller and to an upstream alike. The daemon takes as many as it may
//! have, and leaves some of them to upstreams: callers that only sit there must not keep the others' calls from going out.

use std::io;

/// Kept from callers when there are enough: an upstream's connections, and what the process has open besides.
const KEPT_FROM_CALLERS: usize = 1024;

/// The highest limit taken where there is none: some kernels say so and refuse more.
#[cfg(unix)]
const CEILING: u64 = 10_240;

/// Raises the process's limit as far as it may go: what it was, and what it is now. `None` where there is no limit.
///
/// # Errors
/// The system refuses; the old limit stays.
#[cfg(unix)]
pub(crate) fn raise() -> io::Result<Option<(u64, u64)>> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current else { return Ok(None) };
    let wanted = limit.maximum.unwrap_or(CEILING).max(current);
    if wanted > current {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })?;
    }
    Ok(Some((current, wanted)))
}

/// Elsewhere there is no such limit.
#[cfg(not(unix))]
pub(crate) fn raise() -> io::Result<Option<(u64, u64)>> {
    Ok(None)
}

/// How many callers' connections may be open at once.
pub(super) fn for_callers() -> usize {
    #[cfg(unix)]
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    let limit = None;
    share(limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)))
}

/// The callers' share of `limit` descriptors: a call needs one to its caller and one to its upstream.
fn share(limit: usize) -> usize {
    (limit - KEPT_FROM_CALLERS.min(limit / 2)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_few_descriptors_and_most_of_many_are_for_callers() {
        assert_eq!([0, 1, 64, 1024, 2048, 20_000].map(share), [1, 1, 32, 512, 1024, 18_976]);
        assert_eq!(share(usize::MAX), usize::MAX - KEPT_FROM_CALLERS);
    }

    #[test]
    fn the_limit_is_as_high_as_it_may_be_and_raising_it_again_changes_nothing() {
        let Some((_, raised)) = raise().unwrap() else { return };
        assert_eq!(raise().unwrap(), Some((raised, raised)));
    }
}
