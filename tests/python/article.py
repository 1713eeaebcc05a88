"""The story this program was written for: 50 threads of the real openai package, 20 calls each, no retries of their
own, against a provider that limits, resets, stalls, refuses and fails. Nothing may be lost or mixed up.

usage: article.py [SEED...]   (default 1)"""

import sys
import threading
import time

import openai

from support import echo, gateway, simulator

THREADS, CALLS = 50, 20
LIMIT = 20  # requests a second
# So many may go too many: in the first moments it is not known yet which refusals are the limit's, and of a limit of a second
# a machine that stands still for a tenth of it lets calls arrive together that left apart.
HANDFUL = 3


def run(seed, share, more):
    faults = [f"--{name}={share}" for name in ("reset", "rate-limited", "status-500", "stall")]
    limits = [f"--requests-per-second={LIMIT}", "--burst=1s", "--latency=50ms-250ms"]
    upstream = f"""
first_byte_timeout = "2s"
answer_timeout = "2s"
limits = {{ requests_per_minute = {LIMIT * 60} }}
{more}
"""
    with simulator(f"--seed={seed}", *faults, *limits) as provider, gateway(provider.url, upstream) as forebay:
        client = openai.OpenAI(base_url=forebay.url, api_key="unused", max_retries=0)
        lost, mixed, right = [], [], []

        def caller(thread):
            for call in range(CALLS):
                prompt = f"thread {thread}, call {call}, seed {seed}"
                try:
                    answer = client.chat.completions.create(
                        model="gpt-4o-mini", messages=[{"role": "user", "content": prompt}]
                    )
                except openai.OpenAIError as error:
                    lost.append(f"{prompt}: {error}")
                    continue
                content = answer.choices[0].message.content
                (right if content == echo(prompt) else mixed).append(f"{prompt}: {content}")

        start = time.monotonic()
        threads = [threading.Thread(target=caller, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - start
        ledger = provider.ledger()
        return right, lost, mixed, took, ledger


def check(seed, share, more, slack):
    right, lost, mixed, took, ledger = run(seed, share, more)
    attempts = ledger["requests"]
    over_limit = ledger["limited"]
    allowed = slack * attempts / LIMIT + 2
    print(
        f"seed {seed}, {share:.0%} each: {len(right)} answers, {len(lost)} lost, {len(mixed)} mixed up; "
        f"{attempts} attempts, {over_limit} over the limit, {took:.1f} s of at most {allowed:.1f} s",
        flush=True,
    )
    problems = lost[:3] + mixed[:3]
    if len(right) != THREADS * CALLS or lost or mixed:
        problems.append("not every call has its own answer")
    if over_limit > HANDFUL:
        problems.append("the limit was exceeded")
    if took > allowed:
        problems.append("it took too long")
    for problem in problems:
        print(f"  FAILED {problem}")
    return not problems


def main():
    seeds = [int(seed) for seed in sys.argv[1:]] or [1]
    results = [check(seed, 0.02, "", slack=1.15) for seed in seeds]
    # One call in twenty is refused by chance, and each time all wait for the second that the refusal names.
    results.append(check(seeds[0], 0.05, "retry = { max_attempts = 10 }", slack=2.0))
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
