import { vi } from 'vitest';

/** Answers in place of a Prometheus, for the moment that is asked about, by a clock that the test moves. */
export class StubPrometheus {
  /** s since 1970. */
  now = 1_800_000_000;
  /** It has no sample from before. */
  remembersFrom = 0;
  isAway = false;
  /** What a query has as its answer at a moment, s; undefined for no series. */
  answer: (query: string, at: number) => number | undefined = () => undefined;

  /** In place of `fetch`, until the test takes its stubs back. */
  static stub(): StubPrometheus {
    const prometheus = new StubPrometheus();
    vi.stubGlobal('fetch', (_url: unknown, init: { body: URLSearchParams }) => prometheus.#fetch(init.body));
    return prometheus;
  }

  #fetch(form: URLSearchParams): Promise<Response> {
    if (this.isAway) return Promise.resolve(new Response('starting', { status: 503 }));
    const query = form.get('query') ?? '';
    const number = query === 'time()' ? this.now : this.answer(query, Number(form.get('time') ?? this.now));
    const result = number === undefined ? [] : [{ metric: {}, value: [this.now, String(number)] }];
    return Promise.resolve(Response.json({ status: 'success', data: { resultType: 'vector', result } }));
  }
}
