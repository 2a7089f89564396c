package edu.stanford.nlp.ling;

public class IndexedWord {
    private final String word;
    private final int index;

    public IndexedWord(String word, int index) {
        this.word = word;
        this.index = index;
    }

    public String lemma() {
        return word;
    }

    public String value() {
        return word;
    }

    public int index() {
        return index;
    }
}
