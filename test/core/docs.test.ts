import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { pages } from '../../scripts/write-docs.js';

describe('generated pages', () => {
  for (const [path, render] of Object.entries(pages)) {
    it(`${path} says what the code says`, () => {
      const url = new URL(`../../${path}`, import.meta.url);
      assert.equal(readFileSync(url, 'utf8'), render(), 'run `npm run docs`');
    });
  }
});
