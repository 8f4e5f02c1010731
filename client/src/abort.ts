// Owns listening to AbortSignals: one listener for each signal, however many calls were given it, because Node.js takes a
// dozen listeners on one signal for a leak and says so.

interface Listening {
  listener: () => void;
  callbacks: Set<() => void>;
}

const signals = new WeakMap<AbortSignal, Listening>();

/** Calls back when the signal is aborted, unless the function returned was called before. */
export function onAbort(signal: AbortSignal | undefined, callback: () => void): () => void {
  if (signal === undefined) {
    return () => undefined;
  }
  const { listener, callbacks } = signals.get(signal) ?? listen(signal);
  callbacks.add(callback);
  return () => {
    callbacks.delete(callback);
    if (callbacks.size === 0) {
      signal.removeEventListener('abort', listener);
      signals.delete(signal);
    }
  };
}

function listen(signal: AbortSignal): Listening {
  const callbacks = new Set<() => void>();
  const listener = (): void => {
    for (const callback of [...callbacks]) {
      callback();
    }
  };
  signal.addEventListener('abort', listener, { once: true });
  const listening = { listener, callbacks };
  signals.set(signal, listening);
  return listening;
}
