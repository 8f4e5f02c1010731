// Begins threads, from JavaScript as it is shipped and from TypeScript in tests.
import { fileURLToPath } from 'node:url';
import { Worker, type WorkerOptions } from 'node:worker_threads';

/**
 * Begins the worker whose module has this URL, ending in `.js`. In tests the module is TypeScript; it is then loaded by require, since the other
 * loader of tsx, which has a thread of its own for each thread that uses it, now and then never gets ready, and on some versions of Node is not
 * there at all. So the module must not wait at its top level.
 */
export function startWorker(module: URL, options: WorkerOptions): Worker {
  if (!import.meta.url.endsWith('.ts')) return new Worker(module, options);
  const path = JSON.stringify(fileURLToPath(module).replace(/\.js$/, '.ts'));
  const source = `const load = require('node:module').createRequire(${path}); load('tsx/cjs/api').register(); load(${path});`;
  return new Worker(source, { ...options, eval: true, execArgv: [] });
}
