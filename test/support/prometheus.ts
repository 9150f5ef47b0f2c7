import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** The program's path; undefined where Prometheus is not installed. */
export function findPrometheus(): string | undefined {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/bin', '/usr/local/bin'];
  return folders.map((folder) => join(folder, 'prometheus')).find((path) => existsSync(path));
}

/** A metrics page whose text the test writes; undefined answers HTTP 503. */
export class MetricsPage {
  text: string | undefined = '';
  /** How often it was asked. */
  asked = 0;
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((_request, response) => {
      this.asked += 1;
      if (this.text === undefined) response.writeHead(503).end();
      else response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4' }).end(this.text);
    });
  }

  static async open(): Promise<MetricsPage> {
    const page = new MetricsPage();
    await new Promise<void>((resolve) => page.#server.listen(0, '127.0.0.1', resolve));
    return page;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/metrics`;
  }

  close(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }
}

/** A Prometheus of the test's own that reads one page every 200 ms. */
export class TestPrometheus {
  private constructor(
    readonly url: string,
    private readonly child: ChildProcess,
    private readonly folder: string,
  ) {}

  static async start(program: string, page: MetricsPage): Promise<TestPrometheus> {
    const folder = mkdtempSync(join(tmpdir(), 'verdigris-prometheus-'));
    const config = join(folder, 'prometheus.yml');
    writeFileSync(
      config,
      `global: { scrape_interval: 200ms, scrape_timeout: 200ms }
scrape_configs:
  - job_name: application
    honor_timestamps: true
    static_configs: [{ targets: ["127.0.0.1:${page.port}"] }]
`,
    );
    const port = await unusedPort();
    const child = spawn(
      program,
      [
        `--config.file=${config}`,
        `--storage.tsdb.path=${join(folder, 'data')}`,
        `--web.listen-address=127.0.0.1:${port}`,
        '--log.level=error',
      ],
      { stdio: 'ignore' },
    );
    const prometheus = new TestPrometheus(`http://127.0.0.1:${port}`, child, folder);
    for (let tries = 0; tries < 300; tries++) {
      const ready = await fetch(`${prometheus.url}/-/ready`).catch(() => undefined);
      if (ready?.status === 200) return prometheus;
      await sleep(100);
    }
    await prometheus.stop();
    throw new Error('Prometheus has not started');
  }

  /** Returns when it stands still, which takes a moment where processors are busy. */
  async freeze(): Promise<void> {
    this.child.kill('SIGSTOP');
    const state = (): string | undefined =>
      /^State:\s+(\w)/m.exec(readFileSync(`/proc/${this.child.pid ?? 0}/status`, 'utf8'))?.[1];
    while (state() !== 'T') await sleep(5);
  }

  thaw(): void {
    this.child.kill('SIGCONT');
  }

  async stop(): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      const ended = new Promise((resolve) => this.child.once('exit', resolve));
      this.child.kill('SIGKILL');
      await ended;
    }
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

async function unusedPort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
