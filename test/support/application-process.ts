import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { tsxArguments } from '../../src/embedded/tsx-process.js';
import type { Databases, Session } from '../../src/postgres/session.js';
import { AuditJournal } from './audit-journal.js';
import type { ApplicationOptions } from './application-child.js';

/** An application of several processes, one after the other, that are killed and leave nothing but their journals. */
export class ApplicationProcesses {
  readonly #folder = mkdtempSync(join(tmpdir(), 'verdigris-application-'));
  readonly #files: string[] = [];
  #child: ChildProcess | undefined;

  constructor(
    private readonly databases: Databases,
    private readonly migration: string,
  ) {}

  /** Starts the next process, and returns when it writes. */
  async start(): Promise<void> {
    const file = join(this.#folder, `journal-${this.#files.length}`);
    this.#files.push(file);
    const options: ApplicationOptions = { databases: this.databases, migration: this.migration, file };
    const program = new URL('./application-child.ts', import.meta.url);
    this.#child = spawn(process.execPath, tsxArguments(program, JSON.stringify(options)), {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    await once(this.#child, 'message');
  }

  freeze(): void {
    this.#child?.kill('SIGSTOP');
  }

  thaw(): void {
    this.#child?.kill('SIGCONT');
  }

  async pause(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
    // What the servers had received of it comes to its end.
    await sleep(500);
  }

  resume(): void {
    // The next process is started by whoever wants one.
  }

  async audit(session: Session): Promise<string[]> {
    const journal = AuditJournal.read(...this.#files);
    if (journal.acknowledged < 50) return [`only ${journal.acknowledged} writes were acknowledged`];
    return journal.audit(session);
  }

  async close(): Promise<void> {
    await this.pause();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
