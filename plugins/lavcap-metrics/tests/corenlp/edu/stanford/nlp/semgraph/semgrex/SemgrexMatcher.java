package edu.stanford.nlp.semgraph.semgrex;

import edu.stanford.nlp.ling.IndexedWord;

public class SemgrexMatcher {
    private final String[] words;
    private int place = -1;

    SemgrexMatcher(String[] words) {
        this.words = words;
    }

    public boolean find() {
        place++;
        return place < words.length;
    }

    public boolean findNextMatchingNode() {
        return find();
    }

    public IndexedWord getNode(String name) {
        return new IndexedWord(words[place], place);
    }

    public String getRelnString(String name) {
        return "";
    }
}
