// The version in package.json, found from the compiled files in dist/ and from the sources alike.
import { readFileSync } from 'node:fs';

/** `0.1.0` */
export const version = findVersion(new URL('.', import.meta.url));

function findVersion(folder: URL): string {
  try {
    const { name, version } = JSON.parse(readFileSync(new URL('package.json', folder), 'utf8')) as Record<
      string,
      string
    >;
    if (name === 'gomq' && version !== undefined) return version;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  const parent = new URL('..', folder);
  return parent.href === folder.href ? 'unknown' : findVersion(parent);
}
