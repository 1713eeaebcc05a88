//! `forebay check` as an operator meets it: the real binary, files in a directory, a cleared environment.

#![cfg(feature = "gateway")]

use std::path::Path;
use std::process::{Command, Output};

/// An upstream that has nothing wrong; tables put their broken line below or above it.
const UPSTREAM: &str = "[upstreams.a]\nbase_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"m\"]\n";

/// Never to be seen in any output.
const SECRET: &str = "sk-hunter2";

/// Runs `forebay check` in a directory with `files`, laid over each other with `-c`.
fn check(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).expect("written");
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).filter(|name| name.ends_with(".toml")).collect();
    check_in(dir.path(), &names, variables)
}

fn check_in(dir: &Path, names: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.arg("check").current_dir(dir).env_clear().envs(variables.iter().copied());
    for name in names {
        command.args(["-c", name]);
    }
    command.output().expect("the binary runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// One broken configuration: how it is broken, the file, and what its one line must say.
struct Broken {
    how: &'static str,
    text: String,
    /// Key, then words of the fault or the fix.
    says: &'static [&'static str],
}

/// Broken in a section of its own, above a good upstream.
fn in_section(how: &'static str, text: &str, says: &'static [&'static str]) -> Broken {
    Broken { how, text: format!("{text}\n{UPSTREAM}"), says }
}

/// Broken in the upstream itself.
fn in_upstream(how: &'static str, text: &str, says: &'static [&'static str]) -> Broken {
    Broken { how, text: format!("{UPSTREAM}{text}\n"), says }
}

fn alone(how: &'static str, text: &str, says: &'static [&'static str]) -> Broken {
    Broken { how, text: text.to_owned(), says }
}

fn broken() -> Vec<Broken> {
    let mut all = broken_sections();
    all.extend(broken_upstreams());
    all.extend(broken_tenants_and_routes());
    all
}

fn broken_sections() -> Vec<Broken> {
    vec![
        alone("an open string", "[server]\nlisten = \"x", &["line 2, column", "not valid TOML"]),
        alone("a key twice", "[queue]\ncapacity = 1\ncapacity = 2\n", &["line 3, column 1", "duplicate key"]),
        alone("no upstream", "", &["[upstreams]", "OPENAI_API_KEY", "HOLYSHEEP_API_KEY"]),
        in_section(
            "a mistyped section",
            "[sever]\nlisten = \"x\"",
            &["[sever]: unknown section", "did you mean [server]?"],
        ),
        in_section("a section unlike any", "[zzz]", &["[zzz]: unknown section", "remove it"]),
        in_section("a key outside sections", "listen = 5", &["[listen]: unknown key outside any section"]),
        in_section("a section that is none", "server = \"x\"", &["[server]: must be a section, not a string"]),
        in_section(
            "a mistyped key",
            "[queue]\ncapcity = 1",
            &["[queue] capcity: unknown key", "did you mean capacity?"],
        ),
        in_section(
            "a string for a number",
            "[queue]\ncapacity = \"1\"",
            &["[queue] capacity: must be a whole number, not a string"],
        ),
        in_section("a number for a string", "[log]\nlevel = 1", &["[log] level: must be a string"]),
        in_section(
            "a string for a bool",
            "[server]\nallow_anonymous = \"yes\"",
            &["allow_anonymous: must be true or false"],
        ),
        in_section(
            "a string for a list",
            "[server]\norigins = \"http://a\"",
            &["origins: must be a list of strings", "["],
        ),
        in_section(
            "a duration without unit",
            "[server]\ndrain_timeout = 30",
            &["drain_timeout: 30 is not a duration", "\"30s\""],
        ),
        in_section(
            "a duration of an odd unit",
            "[queue]\ndefault_timeout = \"2w\"",
            &["default_timeout: \"2w\" is not a duration"],
        ),
        in_section(
            "a duration of nothing",
            "[queue]\ndefault_timeout = \"0s\"",
            &["default_timeout", "1ms", "0 never means unlimited"],
        ),
        in_section("a duration beyond a year", "[queue]\ndefault_timeout = \"366d\"", &["default_timeout", "365d"]),
        in_section(
            "a size of an odd unit",
            "[server]\nmax_body = \"16M\"",
            &["max_body: \"16M\" is not a size", "\"16MiB\""],
        ),
        in_section("a size of nothing", "[queue]\nmax_bytes = 0", &["max_bytes: 0 is less than 1 byte"]),
        in_section("a count of nothing", "[queue]\ncapacity = 0", &["capacity: 0 is less than 1", "leave the key out"]),
        in_section("a negative count", "[pool]\nslots_per_account = -1", &["slots_per_account: -1 is less than 1"]),
        in_section("a multiplier below 1", "[retry]\nmultiplier = 0.5", &["multiplier: 0.5 is less than 1"]),
        in_section(
            "a retry budget above 1",
            "[retry]\nretry_budget = 20",
            &["retry_budget: 20.0 is not a share", "0 to 1"],
        ),
        in_section("no attempts", "[retry]\nmax_attempts = 0", &["max_attempts: 0"]),
        in_section(
            "delays the wrong way round",
            "[retry]\nmax_delay = \"500ms\"",
            &["max_delay", "base_delay 1s is above"],
        ),
        in_section("an unknown jitter", "[retry]\njitter = \"ful\"", &["jitter", "did you mean \"full\"?"]),
        in_section("an unknown log level", "[log]\nlevel = \"inof\"", &["[log] level", "did you mean \"info\"?"]),
        in_section("an unknown log format", "[log]\nformat = \"xml\"", &["[log] format", "\"json\""]),
        in_section(
            "a host name to listen on",
            "[server]\nlisten = \"localhost:1\"",
            &["listen: \"localhost:1\" is not an address"],
        ),
        in_section(
            "everyone let in",
            "[server]\nlisten = \"0.0.0.0:80\"",
            &["listen", "[tenants.NAME]", "allow_anonymous = true"],
        ),
        in_section(
            "an origin with a path",
            "[server]\norigins = [\"http://a/\"]",
            &["origins: entry 1 \"http://a/\" is not an origin"],
        ),
        in_section(
            "an admin key not set",
            "[server]\nadmin_key = \"env:NOPE\"",
            &["admin_key: variable NOPE is not set"],
        ),
        in_section(
            "a store of no kind",
            "[store]\nurl = \"mysql://u:sk-hunter2@h\"",
            &["[store] url: is not a store", "sqlite:"],
        ),
        in_section(
            "a webhook secret of no kind",
            "[jobs]\nwebhook_secret = \"sk-hunter2\"",
            &["webhook_secret", "whsec_"],
        ),
        in_section(
            "a webhook secret that is too short",
            "[jobs]\nwebhook_secret = \"whsec_aHVudGVyMg==\"",
            &["webhook_secret: is a webhook secret of 7 bytes, which must be 24 to 64", "openssl rand"],
        ),
    ]
}

fn broken_upstreams() -> Vec<Broken> {
    vec![
        in_upstream(
            "a near miss",
            "api_key = \"sk-hunter2\"",
            &["[upstreams.a] api_key: unknown key; did you mean api_keys?"],
        ),
        in_upstream(
            "one key for a list",
            "api_keys = \"sk-hunter2\"",
            &["api_keys: must be a list of strings, not a string"],
        ),
        in_upstream(
            "a key that is a number",
            "api_keys = [\"sk-hunter2\", 5]",
            &["api_keys: must be a list of strings"],
        ),
        in_upstream(
            "a variable not set",
            "api_keys = [\"env:NOPE\"]",
            &["api_keys: entry 1: variable NOPE is not set"],
        ),
        in_upstream(
            "a variable set to nothing",
            "api_keys = [\"env:EMPTY\"]",
            &["api_keys: entry 1: variable EMPTY is empty"],
        ),
        in_upstream(
            "a key file that is not there",
            "api_keys = [\"file:nope\"]",
            &["api_keys: entry 1: file nope cannot be read"],
        ),
        in_upstream("an empty key file", "api_keys = [\"file:empty\"]", &["api_keys: entry 1: file empty is empty"]),
        in_upstream("an empty key", "api_keys = [\"\"]", &["api_keys: entry 1: is empty", "env:NAME"]),
        in_upstream("a key with a space", "api_keys = [\"sk-hunter2 \"]", &["api_keys: entry 1: holds a space"]),
        in_upstream(
            "a key twice",
            "api_keys = [\"sk-hunter2\", \"env:KEY\"]",
            &["api_keys: entry 2: is the same as entry 1"],
        ),
        in_upstream("a list of no keys", "api_keys = []", &["api_keys: is empty", "leave the key out"]),
        in_upstream("an unknown kind", "kind = \"opnai\"", &["kind", "did you mean \"openai\"?"]),
        in_upstream(
            "a CA file that is not there",
            "ca_file = \"nope.pem\"",
            &["ca_file: \"nope.pem\" cannot be read", "working directory"],
        ),
        in_upstream(
            "a CA file of nonsense",
            "ca_file = \"ca.pem\"",
            &["ca_file: \"ca.pem\" holds a certificate that cannot"],
        ),
        in_upstream("a CA file of something else", "ca_file = \"key\"", &["ca_file: \"key\" holds no certificate"]),
        in_upstream(
            "a header forebay sets",
            "headers = { Host = \"sk-hunter2\" }",
            &["[upstreams.a.headers] Host: is set by forebay"],
        ),
        in_upstream("a key as header", "headers = { authorization = \"sk-hunter2\" }", &["authorization", "api_keys"]),
        in_upstream(
            "an illegal header name",
            "headers = { \"x y\" = \"z\" }",
            &["[upstreams.a.headers] x y: is not a header's name"],
        ),
        in_upstream(
            "an illegal header value",
            "headers = { x = \"sk-hunter2\\nz\" }",
            &["[upstreams.a.headers] x: holds a line break"],
        ),
        in_upstream(
            "a limit of nothing",
            "limits.requests_per_minute = 0",
            &["[upstreams.a.limits] requests_per_minute: 0", "leave the key out"],
        ),
        in_upstream("a mistyped limit", "limits.request_per_minute = 1", &["did you mean requests_per_minute?"]),
        in_upstream("an override out of range", "retry.max_attempts = 0", &["[upstreams.a.retry] max_attempts: 0"]),
        in_upstream(
            "an override against its base",
            "retry.base_delay = \"2m\"",
            &["[upstreams.a.retry] base_delay", "above max_delay 60s"],
        ),
        in_upstream(
            "a negative price",
            "prices.m = { input = -1, output = 1 }",
            &["[upstreams.a.prices.m] input: -1.0 is not a price"],
        ),
        alone("no base_url", "[upstreams.a]\nmodels = [\"m\"]", &["[upstreams.a] base_url: missing", "https://"]),
        alone(
            "no models",
            "[upstreams.a]\nbase_url = \"http://a\"",
            &["[upstreams.a] models: missing", "write models"],
        ),
        alone(
            "a list of no models",
            "[upstreams.a]\nbase_url = \"http://a\"\nmodels = []",
            &["[upstreams.a] models: is empty"],
        ),
        alone(
            "a * in the middle",
            "[upstreams.a]\nbase_url = \"http://a\"\nmodels = [\"a*b\"]",
            &["models: entry 1 \"a*b\" has a *"],
        ),
        alone(
            "a model twice",
            "[upstreams.a]\nbase_url = \"http://a\"\nmodels = [\"a\", \"a\"]",
            &["models: entry 2 \"a\" repeats"],
        ),
        alone(
            "an address without scheme",
            "[upstreams.a]\nbase_url = \"a/v1\"\nmodels = [\"m\"]",
            &["base_url: is not an http://"],
        ),
        alone(
            "an address with credentials",
            "[upstreams.a]\nbase_url = \"http://u:sk-hunter2@a\"\nmodels = [\"m\"]",
            &["base_url: has credentials", "api_keys"],
        ),
        alone(
            "an address with a query",
            "[upstreams.a]\nbase_url = \"http://a?key=sk-hunter2\"\nmodels = [\"m\"]",
            &["base_url: has a query"],
        ),
        alone(
            "an upstream name",
            "[upstreams.My_A]\nbase_url = \"http://a\"\nmodels = [\"m\"]",
            &["[upstreams.My_A]: upstream names are lower-case", "my-a"],
        ),
        alone(
            "upstreams as a list",
            "[[upstreams]]\nbase_url = \"http://a\"",
            &["[upstreams]: must be a section, not a list"],
        ),
    ]
}

fn broken_tenants_and_routes() -> Vec<Broken> {
    vec![
        in_section("a tenant without key", "[tenants.t]\nweight = 1", &["[tenants.t] key: missing", "env:NAME"]),
        in_section("a tenant name", "[tenants.T]\nkey = \"sk-hunter2\"", &["[tenants.T]: tenant names are lower-case"]),
        in_section(
            "a tenant key that is a list",
            "[tenants.t]\nkey = [\"sk-hunter2\"]",
            &["[tenants.t] key: must be a string, not a list"],
        ),
        in_section(
            "tenants with one key",
            "[tenants.t]\nkey = \"sk-hunter2\"\n[tenants.u]\nkey = \"env:KEY\"",
            &["[tenants.u] key: is the same as [tenants.t] key"],
        ),
        in_section(
            "a tenant with the operator's key",
            "[server]\nadmin_key = \"sk-hunter2\"\n[tenants.t]\nkey = \"env:KEY\"",
            &["[tenants.t] key: is the same as [server] admin_key"],
        ),
        in_section(
            "a cap of requests",
            "[tenants.t]\nkey = \"k\"\nrequests_per_minute = 1",
            &["requests_per_minute: is not in force yet", "remove it"],
        ),
        in_section(
            "a cap of money",
            "[tenants.t]\nkey = \"k\"\nmax_spend_usd_per_day = 1",
            &["max_spend_usd_per_day: is not in force yet", "remove it"],
        ),
        in_section(
            "a tenant's weight",
            "[tenants.t]\nkey = \"k\"\nweight = 0",
            &["[tenants.t] weight: 0.0 is not a weight"],
        ),
        in_section("a route to nowhere", "[routes.r]\ntargets = []", &["[routes.r] targets: is empty"]),
        in_section("a route without targets", "[routes.r]", &["[routes.r] targets: missing"]),
        in_section(
            "a target without upstream",
            "[routes.r]\ntargets = [\"m\"]",
            &["targets: entry 1 \"m\" names no upstream"],
        ),
        in_section("a target without model", "[routes.r]\ntargets = [\"a/\"]", &["targets: entry 1 \"a/\" is empty"]),
        in_section(
            "a target elsewhere",
            "[routes.r]\ntargets = [\"b/m\"]",
            &["targets: entry 1 \"b/m\" is of no upstream here", "[upstreams.b]"],
        ),
        in_section(
            "a target twice",
            "[routes.r]\ntargets = [\"a/m\", \"a/m\"]",
            &["targets: entry 2 \"a/m\" is there twice"],
        ),
        in_section(
            "a route over an upstream",
            "[routes.\"a/m\"]\ntargets = [\"a/m\"]",
            &["[routes.\"a/m\"]: hides that model"],
        ),
        in_section(
            "a route that is a pattern",
            "[routes.\"r*\"]\ntargets = [\"a/m\"]",
            &["[routes.\"r*\"]: a route is one name"],
        ),
    ]
}

const NONSENSE: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
const FILES: [(&str, &str); 3] = [("key", "sk-hunter3\n"), ("empty", "\n"), ("ca.pem", NONSENSE)];
const VARIABLES: [(&str, &str); 2] = [("KEY", SECRET), ("EMPTY", "")];

#[test]
fn every_kind_of_broken_configuration_is_one_line_that_names_file_key_and_fix() {
    let all = broken();
    assert!(all.len() >= 35);
    let faults: Vec<String> = all.iter().flat_map(faults).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What is not as promised when `broken` is checked alone.
fn faults(Broken { how, text, says }: &Broken) -> Vec<String> {
    let files: Vec<_> = [("forebay-1.toml", text.as_str())].into_iter().chain(FILES).collect();
    let output = check(&files, &VARIABLES);
    let line = stderr(&output);
    let mut promises = vec![
        ("exits with 2", output.status.code() == Some(2)),
        ("is one line", line.lines().count() == 1),
        ("names the file", line.starts_with("forebay-1.toml: ")),
        ("names the fix", line.contains(';')),
        ("hides secrets", !line.contains("hunter")),
        ("leaves stdout alone", output.stdout.is_empty()),
    ];
    promises.extend(says.iter().map(|words| (*words, line.contains(words))));
    promises
        .into_iter()
        .filter(|(_, kept)| !kept)
        .map(|(promise, _)| format!("{how}: not {promise:?}: {line}"))
        .collect()
}

#[test]
fn all_problems_of_all_files_come_at_once() {
    let first = format!(
        "[server]\nlisten = \"x\"\nmax_body = \"1Q\"\nadmin_key = \"env:NOPE\"\n[queue]\ncapacity = 0\nbytes = 1\n\
         [retry]\njitter = \"x\"\nmultiplier = 0\n[zzz]\n{UPSTREAM}api_keys = [\"env:NOPE\", \"file:nope\"]\nkind = \"x\"\n"
    );
    let second = "[routes.r]\ntargets = [\"b/m\"]\n[tenants.t]\nrequests_per_minute = 1\n";
    let output = check(&[("1.toml", &first), ("2.toml", second)], &[("FOREBAY__POOL__THREADS", "many")]);
    let lines = stderr(&output);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(lines.lines().count(), 15, "{lines}");
    for key in [
        "listen",
        "max_body",
        "admin_key",
        "capacity",
        "[queue] bytes",
        "jitter",
        "multiplier",
        "[zzz]",
        "entry 1",
        "entry 2",
        "kind",
    ] {
        let naming = lines.lines().filter(|line| line.starts_with("1.toml: ") && line.contains(key)).count();
        assert_eq!(naming, 1, "{key} in {lines}");
    }
    for start in [
        "2.toml: [routes.r] targets",
        "2.toml: [tenants.t] key",
        "2.toml: [tenants.t] requests_per_minute",
        "FOREBAY__POOL__THREADS: [pool] threads",
    ] {
        assert_eq!(lines.lines().filter(|line| line.starts_with(start)).count(), 1, "{start} in {lines}");
    }
}

#[test]
fn files_that_cannot_be_read_are_all_reported_and_blame_no_other() {
    let output = check(
        &[
            ("1.toml", "[upstreams.b]\nx = [\"sk-hunter2\n"),
            ("2.toml", "a b"),
            ("3.toml", "[routes.r]\ntargets = [\"b/m\"]\n[queue]\ncapacity = 0"),
        ],
        &[],
    );
    let lines = stderr(&output);
    assert_eq!(lines.lines().count(), 3, "{lines}");
    assert!(lines.contains("1.toml: line 2, column") && lines.contains("2.toml: line 1, column"), "{lines}");
    assert!(lines.contains("3.toml: [queue] capacity") && !lines.contains("hunter"), "{lines}");
}

#[test]
fn the_well_known_file_of_the_directory_is_read_without_being_named() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("forebay.toml"), format!("{UPSTREAM}api_key = \"x\"")).expect("written");
    let output = check_in(dir.path(), &[], &[]);
    assert_eq!(stderr(&output), "./forebay.toml: [upstreams.a] api_key: unknown key; did you mean api_keys?\n");
}

#[test]
fn a_file_asked_for_must_exist() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = check_in(dir.path(), &["nope.toml"], &[("OPENAI_API_KEY", SECRET)]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output).lines().count(), 1);
    assert!(stderr(&output).starts_with("nope.toml: "));
}

#[test]
fn bad_usage_is_exit_code_two() {
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_forebay")).args(arguments).env_clear().output().expect("the binary runs")
    };
    for arguments in [&["check", "--nope"][..], &["chek"], &[]] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["--version"]).status.code(), Some(0));
}

/// The contract's own example, with what is refused for now left out, and the upstream its route names.
const CONTRACT: &str = r#"
[server]
listen = "127.0.0.1:8787"
allow_anonymous = false
origins = []
admin_key = "env:OPERATOR_KEY"
max_body = "16MiB"
drain_timeout = "30s"

[store]
url = "sqlite:jobs.db"
keep_results_for = "7d"

[queue]
capacity = 10000
max_bytes = "1GiB"
default_timeout = "10m"

[retry]
max_attempts = 5
base_delay = "1s"
multiplier = 2.0
max_delay = "60s"
jitter = "full"
retry_budget = 0.2

[upstreams.openai]
kind = "openai"
base_url = "https://api.openai.com/v1"
api_keys = ["env:OPENAI_API_KEY", "file:key", "sk-hunter2-literal"]
models = ["gpt-4o", "gpt-4o-mini", "o3*"]
connect_timeout = "10s"
first_byte_timeout = "120s"
answer_timeout = "10m"
idle_timeout = "120s"
max_answer = "64MiB"
ask_usage = true
ca_file = "corporate.pem"
headers = { "x-team" = "ml" }

[upstreams.openai.limits]
requests_per_minute = 500
tokens_per_minute = 200000
max_concurrent = 50

[upstreams.openai.prices."gpt-4o"]
input = 2.5
cached_input = 1.25
output = 10.0

[upstreams.anthropic]
kind = "anthropic"
base_url = "https://api.anthropic.com"
api_keys = ["env:ANTHROPIC_API_KEY"]
models = ["claude-*"]

[routes."smart"]
targets = ["openai/gpt-4o", "anthropic/claude-sonnet-4-5"]

[jobs]
webhook_secret = "env:WEBHOOK_SECRET"
webhook_allow_private = false
max_file = "200MiB"

[tenants.batch-team]
key = "env:BATCH_TEAM_KEY"
weight = 1
"#;

#[test]
fn the_contracts_example_passes_with_a_line_for_each_thing_not_in_force() {
    let variables = [
        ("OPERATOR_KEY", "sk-hunter2-operator"),
        ("OPENAI_API_KEY", "sk-hunter2-openai"),
        ("ANTHROPIC_API_KEY", "sk-hunter2-anthropic"),
        ("WEBHOOK_SECRET", "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg=="),
        ("BATCH_TEAM_KEY", "sk-hunter2-tenant"),
        ("FOREBAY_LISTEN", "x"),
        ("FOREBAY_PORT", "tcp://10.0.0.1:80"),
        ("FOREBAY_SERVICE_HOST", "10.0.0.1"),
        ("HTTPS_PROXY", "http://user:hunter2@proxy"),
    ];
    let authority =
        rcgen::generate_simple_self_signed(["authority.test".to_owned()]).expect("a certificate").cert.pem();
    let pem = ("corporate.pem", authority.as_str());
    let output = check(&[("contract.toml", CONTRACT), pem, FILES[0]], &variables);
    let (out, err) = (stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(![&out, &err].iter().any(|said| said.contains("hunter") || said.contains("aHVu")), "{out}{err}");

    let expected = [
        "FOREBAY_LISTEN: sets nothing",
        "HTTPS_PROXY: is not honoured",
        "[tenants.batch-team] weight is not in force yet",
    ];
    for words in expected {
        assert_eq!(err.lines().filter(|line| line.contains(words)).count(), 1, "{words} in {err}");
    }
    // The key file was made with the umask of whoever runs this: its line may or may not be there.
    let others = err.lines().filter(|line| !line.contains("chmod 600")).count();
    assert_eq!(others, expected.len(), "{err}");

    assert!(out.contains("api_keys = [\"***\", \"***\", \"***\"]"), "{out}");
    assert!(out.contains("url = \"sqlite:jobs.db\""), "{out}");
    for (name, served) in [
        ("smart", "openai/gpt-4o, then anthropic/claude-sonnet-4-5"),
        ("gpt-4o-mini", "openai/gpt-4o-mini"),
        ("o3*", "openai"),
        ("claude-*", "anthropic"),
    ] {
        let line = format!("#   {name} ");
        assert!(out.lines().any(|have| have.starts_with(&line) && have.ends_with(served)), "{name} in {out}");
    }
}

#[test]
fn what_check_prints_is_a_configuration_again() {
    let text = format!(
        "[server]\nmax_body = 1024\n[retry]\nmultiplier = 3\n{UPSTREAM}[routes.\"a.b\"]\ntargets = [\"a/m\"]\n"
    );
    let first = check(&[("1.toml", &text)], &[]);
    let second = check(&[("1.toml", &stdout(&first))], &[]);
    assert_eq!(second.status.code(), Some(0), "{}", stderr(&second));
    let values = |output: &Output| -> Vec<String> {
        stdout(output).lines().filter_map(|line| line.split(" # ").next()).map(str::to_owned).collect()
    };
    assert_eq!(values(&first), values(&second));
}

#[test]
fn a_vendors_key_in_the_environment_is_enough() {
    let output = check(&[], &[("OPENAI_API_KEY", SECRET)]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("gpt-*") && !stdout(&output).contains(SECRET));
    assert!(stderr(&output).is_empty());
}

#[cfg(unix)]
#[test]
fn a_key_file_that_others_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().expect("a directory");
    let key = dir.path().join("key");
    std::fs::write(&key, "k\n").expect("written");
    std::fs::write(dir.path().join("f.toml"), format!("{UPSTREAM}api_keys = [\"file:key\"]")).expect("written");
    for (mode, warned) in [(0o600, false), (0o644, true), (0o640, true)] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("set");
        let output = check_in(dir.path(), &["f.toml"], &[]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(stderr(&output).contains("chmod 600 key"), warned, "{mode:o}");
    }
}
