package edu.stanford.nlp.util;

public interface CoreMap {
    Object get(Class key);
}
